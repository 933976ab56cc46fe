"""The commands about the papers' claims and shipped results: papers, export, and what show and run say of them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from tda_backend.runs.api import open_study
from tda_backend.runs.claim_rules import SHORT_NAMES
from tda_backend.runs.papers import NOT_RUN, paper_claims
from tda_backend.runs.printing import print_json, print_table
from tda_backend.runs.reporting import size
from tda_backend.runs.shipped import ShippedResults, export_results


def papers(arguments: argparse.Namespace, console: Console) -> int:
    """``tda papers``: every claim, our figure, the verdict, and where the figure comes from."""
    frame = paper_claims(arguments.db)
    if arguments.markdown:
        sys.stdout.write(papers_markdown(frame))
        return 0
    if arguments.json:
        print_json(frame.to_dict("records"))
        return 0
    rows = [
        [row["paper"], row["place"], row["statement"], _figure(row), row["verdict"], row["origin"], row["study"]]
        for row in frame.to_dict("records")
    ]
    print_table(console, ["paper", "place", "statement", "our figure [95 %]", "verdict", "origin", "study"], rows)
    count = frame["verdict"].value_counts().to_dict()
    console.print("; ".join(f"{number} {name}" for name, number in count.items()) + ".", highlight=False)
    return 0


def _figure(row: Mapping[str, Any]) -> str:
    if row["verdict"] == NOT_RUN or row["value"] is None or pd.isna(row["value"]):
        return "–"
    return f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}], bound {row['bound']:g}"


def export(arguments: argparse.Namespace, console: Console) -> int:
    """``tda export``."""
    paths = export_results(open_study(arguments.study, arguments.db), Path(arguments.out).expanduser())
    total = size(sum(path.stat().st_size for path in paths))
    console.print(f"{len(paths)} files, {total}: {paths[0].parent}", highlight=False, markup=False, soft_wrap=True)
    return 0


def print_verdicts(console: Console, verdicts: Sequence[Mapping[str, Any]], quick: bool = False) -> None:
    """Print each claim with its verdict and every number behind it."""
    if quick and verdicts:
        console.print(
            "A quick study has few examples and subsets: its verdicts show that the machinery works, and say nothing "
            "about the paper.", highlight=False, soft_wrap=True,
        )  # fmt: skip
    for row in verdicts:
        console.print(
            f"{row['verdict'].upper()}: {row['statement']} ({row['paper']}, {row['place']})", highlight=False,
            markup=False, soft_wrap=True,
        )  # fmt: skip
        for sentence in [row["note"]] if row["verdict"] == NOT_RUN else row["numbers"]:
            console.print(f"    {sentence}", highlight=False, markup=False, soft_wrap=True)


def shipped_record(results: ShippedResults) -> dict[str, Any]:
    """Return shipped results as the JSON object of ``tda show``."""
    tables = {name: frame.to_dict("records") for name, frame in results.tables.items()}
    return {**results.facts, "name": results.name, "status": "shipped", "shipped": True, **tables}


def show_shipped(results: ShippedResults, console: Console) -> None:
    """Print shipped results: where they come from, the best LDS of each configuration, verdicts."""
    facts = results.facts
    console.print(
        f"{results.name}: shipped result, task {facts['task']}, computed {facts['created']} with {facts['version']} on "
        f"{facts['device']} (torch {facts['torch']}, {facts['seconds'] / 60:.0f} min). Not in this catalogue; "
        f"compute it with: tda run {results.name}",
        highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip
    rows = results.tables["configurations"].to_dict("records")
    named = {str(row["configuration_id"]): str(row["label"]) for row in rows}
    if "lds" in results.tables:
        _print_best(console, results.tables["lds"], named)
    if "noisy_labels" in results.tables:
        found = results.tables["noisy_labels"]
        best = found.loc[found.groupby("configuration_id", sort=False)["auc"].idxmax()]
        rows = [
            [named[row["configuration_id"]], f"{row['auc']:.3f} [{row['auc_low']:.3f}, {row['auc_high']:.3f}]"]
            for row in best.to_dict("records")
        ]
        print_table(console, ["configuration", "best AUC of wrong labels [95 %]"], rows)
    if "verdicts" in results.tables:
        print_verdicts(console, results.tables["verdicts"].to_dict("records"))


def _print_best(console: Console, lds: pd.DataFrame, named: Mapping[str, str]) -> None:
    rows = []
    for pair, curve in lds.groupby(["configuration_id", "alpha"], sort=False):
        configuration_id, alpha = pair  # type: ignore[reportGeneralTypeIssues]  # two columns are grouped: a tuple
        top = curve.loc[curve["mean"].idxmax()]
        at = "–" if pd.isna(top["regularization"]) else f"{top['regularization']:.2g}"
        interval = f"{top['mean']:.3f} [{top['ci_low']:.3f}, {top['ci_high']:.3f}]"
        rows.append([named[str(configuration_id)], f"{alpha:g}", interval, at, int(top["num_subsets"])])
    print_table(console, ["configuration", "α", "best LDS [95 %]", "at λ", "subsets"], rows)


def papers_markdown(frame: pd.DataFrame) -> str:
    """Return the claims that were run as a Markdown table, and a sentence on those that were not."""
    run = frame.loc[frame["verdict"] != NOT_RUN]
    lines = ["| place | statement | our figure [95 %] | verdict | study |", "|---|---|---|---|---|"]
    for row in run.to_dict("records"):
        cells = [f"{SHORT_NAMES[row['paper']]}, {row['place']}",
                 row["statement"], _figure(row), f"**{row['verdict']}**", f"`{row['study']}`"]  # fmt: skip
        lines.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |")
    rest = frame.loc[frame["verdict"] == NOT_RUN]
    counts = "; ".join(f"{count} {verdict}" for verdict, count in run["verdict"].value_counts().items())
    lines += ["", f"{counts or 'Nothing was run'}."]
    if len(rest):
        studies = ", ".join(f"`{name}`" for name in dict.fromkeys(rest["study"]))
        lines += [f"Not run at full size: {len(rest)} claims of {studies}."]
    return "\n".join(lines) + "\n"
