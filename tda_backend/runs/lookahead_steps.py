"""The steps of selection while training: runs of every strategy, then tuning, gains, and what was kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from tda_backend.errors import NumericalError
from tda_backend.runs.context import RunContext
from tda_backend.runs.plan import Step
from tda_backend.runs.trajectory_study import ALL_STEPS, LOOKING_AHEAD
from tda_backend.store.artifacts import Artifact, ArtifactWriter
from tda_backend.training.data import take
from tda_backend.trajectory.unrolled.selection_gain import Tuned, crossed_interval, paired_difference, tune
from tda_backend.trajectory.unrolled.selection_results import SPLITS, Cost, Course, SelectionData, SelectionRun
from tda_backend.trajectory.unrolled.selection_runs import select_while_training
from tda_backend.trajectory.unrolled.selection_strategy import Strategy

NUM_EVALUATIONS = 12
_KINDS = {"look-ahead (sgd)": "look-ahead"}


def strategies_of(settings: Mapping[str, Any]) -> list[tuple[str, Strategy]]:
    """Return every strategy of a study with its name in the catalogue, each horizon by itself."""
    found: list[tuple[str, Strategy]] = []
    for name in settings["strategies"]:
        kind: Any = _KINDS.get(name, name)
        if name not in LOOKING_AHEAD:
            found.append((name, Strategy(kind, 1, settings["fraction"])))
            continue
        for horizon in settings["horizons"]:
            steps = None if horizon == ALL_STEPS else horizon
            assume: Any = "sgd" if name == LOOKING_AHEAD[1] else "as trained"
            found.append((name, Strategy(kind, steps, settings["fraction"], assume)))
    return found


def selection_data(context: RunContext, step: Step) -> SelectionData:
    """Return the parts: validation selects, queries tune, all other test examples judge."""
    positions, test = context.positions(step), context.data["test"]
    apart = np.setdiff1d(
        np.arange(len(test[context.task.label_key])), np.concatenate([positions["validation"], positions["queries"]])
    )
    parts = (positions["validation"], positions["queries"], apart)
    return SelectionData(
        take(context.data["train"], torch.from_numpy(positions["train"])),
        *(take(test, torch.from_numpy(rows)) for rows in parts),
    )


def run_lookahead(context: RunContext, step: Step, writer: ArtifactWriter) -> None:
    """Train with every strategy at one learning rate and seed; a run that diverges is left out and named."""
    settings, data = step.settings, selection_data(context, step)
    rows: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    about: list[dict[str, Any]] = []
    diverged: list[str] = []
    chosen = strategies_of(settings)
    for number, (name, strategy) in enumerate(chosen):
        try:
            run = select_while_training(
                context.task, data, strategy, settings["seed"], rate=settings["learning_rate"],
                num_evaluations=NUM_EVALUATIONS, device=context.device,
            )  # fmt: skip
        except NumericalError as error:
            diverged.append(f"{strategy.name}: {error.message}")
            context.on_progress(number + 1, len(chosen))
            continue
        identity = {"strategy": name, "horizon": _horizon(name, strategy, run.num_steps)}
        rows += _rows(identity, run)
        courses = run.courses
        curves.append({
            **identity, "steps": courses["test"].steps, "tuning_losses": courses["tuning"].loss,
            "test_losses": courses["test"].loss,
        })  # fmt: skip
        about.append(_store(writer, len(about), name, run))
        context.on_progress(number + 1, len(chosen))
    writer.facts |= {"runs": about, "diverged": diverged}
    writer.table("lookahead_runs", pa.Table.from_pylist(rows, schema=_RUN_SCHEMA))
    writer.table("lookahead_curves", pa.Table.from_pylist(curves, schema=_CURVE_SCHEMA))


def _horizon(name: str, strategy: Strategy, num_steps: int) -> int | None:
    return strategy.window(num_steps) if name in LOOKING_AHEAD else None


def _rows(identity: Mapping[str, Any], run: SelectionRun) -> Iterator[dict[str, Any]]:
    for split in SPLITS:
        course = run.courses[split]
        accuracy = float(course.accuracy[-1])
        yield {
            **identity, "fraction": run.strategy.share, "num_steps": run.num_steps, "split": split,
            "loss": float(course.loss[-1]), "accuracy": None if np.isnan(accuracy) else accuracy,
            "gradient_evaluations": run.cost.gradients, "hessian_products": run.cost.products,
            "relative_cost": run.cost.relative, "seconds": run.cost.seconds,
        }  # fmt: skip


_ARRAYS = ("test_losses", "test_correct", "rows", "steps", "scores", "kept")


def _store(writer: ArtifactWriter, number: int, name: str, run: SelectionRun) -> dict[str, Any]:
    """Write what tuning needs of a run; return the rest of it."""
    for array in _ARRAYS:
        writer.array(f"{array}_{number}", getattr(run, array))
    tuning = run.courses["tuning"]
    return {
        "name": name, "horizon": run.strategy.horizon, "num_steps": run.num_steps,
        "num_candidates": run.num_candidates, "tuning_loss": float(tuning.loss[-1]),
    }  # fmt: skip


def stored_runs(artifact: Artifact) -> Iterator[tuple[str, SelectionRun]]:
    """Return the stored runs of one step, without their parameters, courses and costs but the last tuning loss."""
    settings = artifact.manifest["settings"]
    by_name = {(name, strategy.horizon): strategy for name, strategy in strategies_of(settings)}
    for number, about in enumerate(artifact.manifest["runs"]):
        end = np.array([about["num_steps"]]), np.array([about["tuning_loss"]]), np.array([np.nan])
        arrays: dict[str, Any] = {name: artifact.array(f"{name}_{number}") for name in _ARRAYS}
        yield about["name"], SelectionRun(
            by_name[about["name"], about["horizon"]], settings["learning_rate"], settings["seed"], about["num_steps"],
            {"tuning": Course(*end)}, num_candidates=about["num_candidates"], theta=torch.empty(0),
            cost=Cost(0, 0, 0, 0.0, 1, 0.0), **arrays,
        )  # fmt: skip


def complete_runs(named: Sequence[tuple[str, SelectionRun]]) -> tuple[list[tuple[str, SelectionRun]], list[str]]:
    """Return the runs of settings that every seed finished; and the others, of which a run diverged, in words."""
    seeds = {run.seed for _, run in named}
    groups: dict[tuple[str, Strategy, float], list[SelectionRun]] = {}
    for name, run in named:
        groups.setdefault((name, run.strategy, run.learning_rate), []).append(run)
    whole = [(key[0], run) for key, runs in groups.items() if len(runs) == len(seeds) for run in runs]
    return whole, [
        f"{strategy.name} at learning rate {rate:g}: {len(runs)} of {len(seeds)} seeds"
        for (_, strategy, rate), runs in groups.items() if len(runs) < len(seeds)
    ]  # fmt: skip


def run_lookahead_summary(context: RunContext, step: Step, writer: ArtifactWriter) -> None:
    """Tune every strategy on the tuning set, compare them in pairs on the test set, count what they kept."""
    stored = [pair for key in step.inputs["lookahead"] for pair in stored_runs(context.store.open(key))]
    named, left_out = complete_runs(stored)
    tuned = tune(run for _, run in named)
    names = {run.strategy.family: name for name, run in named}
    rows = [_tuned_row(names[family], each) for family, each in tuned.items()]
    writer.table("lookahead_tuned", pa.Table.from_pylist(rows, schema=_TUNED_SCHEMA))
    pairs = [(one, other) for one in tuned for other in tuned if one != other]
    gains = [_gain(names[one], tuned[one], names[other], tuned[other]) for one, other in pairs]
    writer.table("lookahead_gains", pa.Table.from_pylist(gains, schema=_GAIN_SCHEMA))
    kept = [row for family, each in tuned.items() for row in _examples(names[family], each)]
    writer.table("lookahead_examples", pa.Table.from_pylist(kept, schema=_EXAMPLE_SCHEMA))
    writer.facts["left_out"] = left_out


def _identity(name: str, tuned: Tuned) -> dict[str, Any]:
    chosen = tuned.chosen
    horizon = _horizon(name, chosen.strategy, chosen.runs[0].num_steps)
    return {"strategy": name, "horizon": horizon, "learning_rate": chosen.learning_rate}


def _tuned_row(name: str, tuned: Tuned) -> dict[str, Any]:
    runs = tuned.chosen.runs
    loss = _interval([run.test_losses for run in runs])
    accuracy = [None if end is None else min(1.0, max(0.0, end)) for end in _interval([r.test_correct for r in runs])]
    return {
        **_identity(name, tuned), "tuning_loss": tuned.chosen.tuning_loss, "test_loss": loss[0], "loss_low": loss[1],
        "loss_high": loss[2], "test_accuracy": accuracy[0], "accuracy_low": accuracy[1], "accuracy_high": accuracy[2],
        "num_seeds": len(runs),
    }  # fmt: skip


def _interval(values: Sequence[np.ndarray]) -> tuple[float | None, float | None, float | None]:
    """Return a mean over seeds and test examples with its interval; nothing where there are no values or one seed."""
    stacked = np.stack(values)
    if not np.isfinite(stacked).all():
        return None, None, None
    if len(stacked) < 2:
        return float(stacked.mean()), None, None
    found = crossed_interval(stacked)
    return found.mean, found.low, found.high


def _gain(one: str, left: Tuned, other: str, right: Tuned) -> dict[str, Any]:
    row: dict[str, Any] = {"strategy": one, "against": other}
    first, second = left.chosen.runs, right.chosen.runs
    for quantity in ("loss", "accuracy"):
        names = (f"{quantity}_gain", f"{quantity}_low", f"{quantity}_high")
        known = quantity == "loss" or np.isfinite([run.test_correct for run in (*first, *second)]).all()
        if known and len(first) > 1:
            gain = paired_difference(first, second, quantity)
            row |= dict(zip(names, (gain.mean, gain.low, gain.high), strict=True))
        else:
            row |= dict.fromkeys(names)
    return row


def _examples(name: str, tuned: Tuned) -> Iterator[dict[str, Any]]:
    runs = tuned.chosen.runs
    seen, kept = (np.sum([getattr(run, count) for run in runs], axis=0) for count in ("times_seen", "times_kept"))
    scores = np.mean([run.mean_scores for run in runs], axis=0)
    for position, (times, chosen, score) in enumerate(zip(seen, kept, scores, strict=True)):
        yield {
            **_identity(name, tuned), "position": position, "times_seen": int(times), "times_kept": int(chosen),
            "mean_score": None if np.isnan(score) else float(score),
        }  # fmt: skip


_IDENTITY = [("strategy", pa.string()), ("horizon", pa.int32())]
_RUN_SCHEMA = pa.schema([
    *_IDENTITY, ("fraction", pa.float64()), ("num_steps", pa.int32()), ("split", pa.string()), ("loss", pa.float64()),
    ("accuracy", pa.float64()), ("gradient_evaluations", pa.int64()), ("hessian_products", pa.int64()),
    ("relative_cost", pa.float64()), ("seconds", pa.float64()),
])  # fmt: skip
_CURVE_SCHEMA = pa.schema([
    *_IDENTITY, ("steps", pa.list_(pa.int32())), ("tuning_losses", pa.list_(pa.float32())),
    ("test_losses", pa.list_(pa.float32())),
])  # fmt: skip
_TUNED_SCHEMA = pa.schema([
    *_IDENTITY, ("learning_rate", pa.float64()), ("tuning_loss", pa.float64()), ("test_loss", pa.float64()),
    ("loss_low", pa.float64()), ("loss_high", pa.float64()), ("test_accuracy", pa.float64()),
    ("accuracy_low", pa.float64()), ("accuracy_high", pa.float64()), ("num_seeds", pa.int32()),
])  # fmt: skip
_GAIN_SCHEMA = pa.schema([
    ("strategy", pa.string()), ("against", pa.string()), ("loss_gain", pa.float64()), ("loss_low", pa.float64()),
    ("loss_high", pa.float64()), ("accuracy_gain", pa.float64()), ("accuracy_low", pa.float64()),
    ("accuracy_high", pa.float64()),
])  # fmt: skip
_EXAMPLE_SCHEMA = pa.schema([
    *_IDENTITY, ("learning_rate", pa.float64()), ("position", pa.int32()), ("times_seen", pa.int32()),
    ("times_kept", pa.int32()), ("mean_score", pa.float64()),
])  # fmt: skip
