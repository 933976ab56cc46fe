"""The commands that print what is there: studies, show, select, check, methods; and rebuild and rm."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tda_backend.errors import CatalogueError, UsageError
from tda_backend.methods import METHODS, MethodSpec
from tda_backend.runs import jobs
from tda_backend.runs.api import Study, list_studies, open_study
from tda_backend.runs.paper_commands import export, papers, print_verdicts, shipped_record, show_shipped
from tda_backend.runs.plan_command import plan_command
from tda_backend.runs.printing import print_json, print_table
from tda_backend.runs.reporting import duration, size
from tda_backend.runs.shipped import shipped_names, shipped_results
from tda_backend.runs.study_reader import selection_record
from tda_backend.store import rebuild as rebuilding
from tda_backend.store.workspace import Workspace


def _number(value: Any, digits: str = ".3f") -> str:
    return "–" if value is None or pd.isna(value) else format(float(value), digits)


def _interval(mean: Any, low: Any, high: Any) -> str:
    return "–" if mean is None or pd.isna(mean) else f"{mean:.3f} [{_number(low)}, {_number(high)}]"


def studies(arguments: argparse.Namespace, console: Console) -> int:
    """``tda studies``."""
    workspace = Workspace.at(arguments.db)
    frame = list_studies(workspace)
    use = rebuilding.disk_use(workspace)
    frame["bytes"] = [use.get(study_id, 0) for study_id in frame["study_id"]]
    if arguments.json:
        print_json(frame.to_dict("records"))
        return 0
    rows = [
        [row["name"], row["study_id"], row["task"], row["status"], f"{row['steps_done']}/{row['steps_total']}",
         row["num_configurations"], row["best_method"] or "–",
         _interval(row["best_lds"], row["best_lds_low"], row["best_lds_high"]), size(row["bytes"])]
        for row in frame.astype(object).where(frame.notna(), None).to_dict("records")
    ]  # fmt: skip
    columns = ["study", "id", "task", "status", "steps", "configurations", "best", "LDS [95 %]", "disk"]
    print_table(console, columns, rows)
    for name in ("unused", "damaged"):
        if use[name]:
            console.print(f"{size(use[name])} of {name} artifacts: tda rm --unused", highlight=False)
    return 0


def _study_rows(study: Study) -> list[dict[str, Any]]:
    configurations = study.configurations()
    rows = []
    for row in configurations.to_dict("records"):
        curves = []
        for alpha in study.alphas:
            curve = study.curve(row["configuration_id"], alpha)
            curves += [{"alpha": alpha, **entry} for entry in curve.to_dict("records")]
        rows.append({**row, "parameters": json.loads(row["parameters"]), "lds": curves})
    return rows


def show(arguments: argparse.Namespace, console: Console) -> int:
    """``tda show``: a study of the catalogue, else the shipped results of that name."""
    try:
        study = open_study(arguments.study, arguments.db)
    except (UsageError, CatalogueError):
        if arguments.study not in shipped_names():
            raise
        results = shipped_results(arguments.study)
        if arguments.json:
            print_json(shipped_record(results))
        else:
            show_shipped(results, console)
        return 0
    overview = list_studies(study.workspace).set_index("study_id").loc[study.study_id].to_dict()
    rows, timings = _study_rows(study), study.timings()
    if arguments.json:
        facts = {**study.info, **overview, "study_id": study.study_id, "bytes": _bytes(study)}
        verdicts = study.verdicts().to_dict("records")
        print_json({**facts, "configurations": rows, "verdicts": verdicts, "timings": timings.to_dict("records")})
        return 0
    info = study.info
    console.print(
        f"{study.name} ({study.study_id}): task {info['task']}, {info['num_train']} train, {info['num_queries']} "
        f"queries, {info['num_subsets']} subsets, {overview['status']}, "
        f"{overview['steps_done']}/{overview['steps_total']} steps, {size(_bytes(study))}",
        highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip
    selected = {row["configuration_id"]: row for row in reversed(study.selections().to_dict("records"))}
    best = []
    for row in rows:
        curve = [entry for entry in row["lds"] if not pd.isna(entry["mean"])]
        top = max(curve, key=lambda entry: entry["mean"], default=None)
        mine = selected.get(row["configuration_id"], {})
        best.append([
            row["label"],
            METHODS[row["method"]].curve if row["method"] in METHODS else "–",
            _interval(top["mean"], top["ci_low"], top["ci_high"]) if top else "–",
            _number(top["regularization"], ".2g") if top else "–",
            _number(mine.get("lambda_selected"), ".2g"),
            _interval(mine["lds_selected"], mine["lds_selected_low"], mine["lds_selected_high"])
            if mine.get("lds_selected") is not None else "–",
            top["num_subsets"] if top else "–",
        ])  # fmt: skip
    print_table(
        console, ["configuration", "curve over λ", "best LDS [95 %]", "at λ", "λ*", "LDS at λ* [95 %]", "subsets"], best
    )
    print_verdicts(console, study.verdicts().to_dict("records"))
    by_step = timings.groupby("step", sort=False).agg(
        number=("seconds", "size"), seconds=("seconds", "sum"), peak=("peak_memory_mib", "max"), bytes=("bytes", "sum")
    )
    cost = [
        [r["step"], r["number"], duration(r["seconds"]), f"{_number(r['peak'], '.0f')} MiB", size(r["bytes"])]
        for r in by_step.reset_index().to_dict("records")
    ]
    print_table(console, ["step", "number", "time", "peak memory so far", "disk"], cost)
    return 0


def _bytes(study: Study) -> int:
    return rebuilding.disk_use(study.workspace).get(study.study_id, 0)


def select(arguments: argparse.Namespace, console: Console) -> int:
    """``tda select``."""
    study = open_study(arguments.study, arguments.db)
    if arguments.alpha is not None:
        study._alpha(arguments.alpha)
    frame = study.selections(arguments.alpha)
    records = [selection_record(row) for row in frame.to_dict("records")]
    if arguments.json:
        print_json(records)
        return 0
    quantiles = list(records[0]["quantiles"]) if records else []
    columns = ["configuration", "α", "λ*", "ξ̄", "LDS at λ* [95 %]", "best λ", "LDS", "regret", "λ = 0"]
    rows = [
        [r["label"], f"{r['alpha']:g}",
         _number(r["lambda_selected"], ".2g"), _number(r["xi_at_selected"]),
         _interval(r["lds_selected"], *r["lds_selected_ci"]), _number(r["lambda_best"], ".2g"), _number(r["lds_best"]),
         _number(r["regret"]), _number(r["lds_at_zero"]),
         *(_number(r["quantiles"][quantile]["lds"]) for quantile in quantiles)]
        for r in records
    ]  # fmt: skip
    print_table(console, [*columns, *(f"σ q{quantile}" for quantile in quantiles)], rows)
    for record, label in zip(records, frame["label"], strict=True):
        for warning in record["warnings"]:
            console.print(f"{label}: {warning}", highlight=False, markup=False, soft_wrap=True)
    if not records:
        console.print("No λ has been selected yet.", highlight=False)
    return 0


def check(arguments: argparse.Namespace, console: Console) -> int:
    """``tda check``."""
    from tda_backend.training.check import check_task
    from tda_backend.training.registry import load_task

    checks = check_task(load_task(arguments.task))
    if arguments.json:
        print_json([{"name": row.name, "passed": row.passed, "detail": row.detail} for row in checks])
    else:
        for row in checks:
            mark = "ok  " if row.passed else "FAIL"
            console.print(f"{mark} {row.name}: {row.detail}", highlight=False, markup=False, soft_wrap=True)
    return 0 if all(row.passed for row in checks) else 1


def methods(arguments: argparse.Namespace, console: Console) -> int:
    """``tda methods``."""
    if arguments.json:
        print_json([_method_record(spec) for spec in METHODS.values()])
        return 0
    print_table(console, ["method", "title", "curve over λ", "score (positive helps)", "cost", "source"], [
        [spec.name, spec.title, spec.curve, spec.formula, spec.cost, spec.reference] for spec in METHODS.values()
    ])  # fmt: skip
    print_table(console, ["method", "setting", "allowed", "default", "the papers' grid", "meaning"], [
        [spec.name, item.name, item.range, _values_text(item.default), _values_text(item.grid), item.meaning]
        for spec in METHODS.values() for item in spec.hyperparameters
    ])  # fmt: skip
    return 0


def _method_record(spec: MethodSpec) -> dict[str, Any]:
    record = {key: value for key, value in vars(spec).items() if key != "hyperparameters"}
    settings = [{**vars(item), "range": item.range} for item in spec.hyperparameters]
    return {**record, "has_regularization": spec.has_regularization, "hyperparameters": settings}


def _values_text(values: Any) -> str:
    if values is None:
        return "all saved"
    return ", ".join(str(value).lower() if isinstance(value, bool) else str(value) for value in (
        values if isinstance(values, tuple) else (values,)
    ))  # fmt: skip


def rebuild(arguments: argparse.Namespace, console: Console) -> int:
    """``tda rebuild``."""
    workspace = Workspace.at(arguments.db)
    if not workspace.artifacts.is_dir():
        raise UsageError(f"There are no artifacts in {workspace.folder}.", "Name the right catalogue with --db FILE.")
    columns = (TextColumn("rebuilding"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        counts = rebuilding.rebuild(workspace, lambda done, total: bar.update(task, completed=done, total=total))
    console.print(
        f"{workspace.catalogue}: {counts['studies']} studies, {counts['steps']} steps"
        + (f", {counts['skipped']} damaged ones left out (tda doctor --repair)" if counts["skipped"] else ""),
        highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip
    return 0


def remove(arguments: argparse.Namespace, console: Console) -> int:
    """``tda rm``."""
    workspace = Workspace.at(arguments.db)
    if bool(arguments.study) == bool(arguments.unused):
        raise UsageError("Name a study, or give --unused.", "E.g. `tda rm mnist-mlp-quick`, or `tda rm --unused`.")
    active = jobs.list_jobs(workspace)
    active = active[active["status"] == "running"]
    use = rebuilding.disk_use(workspace)
    if arguments.unused:
        if len(active):
            raise UsageError("A run is going on; its results have no study yet.", "Wait for it, or cancel it.")
        if not _confirmed(arguments, console, f"Remove {size(use['unused'] + use['damaged'])} of unused artifacts?"):
            return 1
        freed = rebuilding.remove_unused(workspace)
    else:
        study = open_study(arguments.study, workspace)
        if arguments.study not in (study.name, study.study_id):
            raise UsageError(f"There is no study {arguments.study!r}.", f"Did you mean {study.name}?")
        if study.study_id in set(active["study_id"]):
            raise UsageError(f"Study {study.name} is being computed.", "Cancel the run first.")
        amount = size(use.get(study.study_id, 0))
        if not _confirmed(arguments, console, f"Remove study {study.name} ({study.study_id}), up to {amount}?"):
            return 1
        freed = rebuilding.remove_study(workspace, study.study_id)
    console.print(f"Freed {size(freed)}.", highlight=False)
    return 0


def _confirmed(arguments: argparse.Namespace, console: Console, question: str) -> bool:
    if arguments.yes:
        return True
    if not sys.stdin.isatty():
        raise UsageError(f"{question} There is no terminal to answer at.", "Add --yes.")
    return console.input(f"{question} [y/N] ", markup=False).strip().lower() in ("y", "yes")


def doctor(arguments: argparse.Namespace, console: Console) -> int:
    """``tda doctor``."""
    from tda_backend.runs.doctor import examine

    findings = examine(Workspace.at(arguments.db), arguments.repair)
    if arguments.json:
        print_json([vars(finding) for finding in findings])
    else:
        for finding in findings:
            text = f"{finding.state:<8} {finding.name}: {finding.detail}"
            console.print(text, highlight=False, markup=False, soft_wrap=True)
    return 1 if any(finding.state == "problem" for finding in findings) else 0


COMMANDS: dict[str, Callable[[argparse.Namespace, Console], int]] = {
    "studies": studies, "show": show, "select": select, "check": check, "methods": methods, "rebuild": rebuild,
    "rm": remove, "doctor": doctor, "plan": plan_command, "papers": papers, "export": export,
}  # fmt: skip
