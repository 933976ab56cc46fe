"""What ``tda show`` says of a study that is not in the catalogue, but whose results are shipped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from tda_backend.errors import command
from tda_backend.interfaces.cli.printing import interval, number, print_line, print_table
from tda_backend.interfaces.cli.verdicts import print_verdicts
from tda_backend.interfaces.papers.shipped import ShippedResults
from tda_backend.interfaces.reading.records.base import is_missing
from tda_backend.interfaces.reading.records.evidence import ComparedConfiguration, ComparedLds
from tda_backend.interfaces.reading.records.verdicts import Verdict


@dataclass(frozen=True)
class _Auc:
    """How well wrong labels are found."""

    configuration_id: str
    auc: float
    auc_low: float
    auc_high: float


def shipped_json(results: ShippedResults) -> dict[str, Any]:
    """Return shipped results as the JSON object of ``tda show``."""
    tables = {name: frame.to_dict("records") for name, frame in results.tables.items()}
    return {**results.facts, "name": results.name, "status": "shipped", "shipped": True, **tables}


def show_shipped(results: ShippedResults, console: Console) -> None:
    """Print shipped results: where they come from, the best LDS of each configuration, verdicts."""
    made = results.origin
    print_line(
        console,
        f"{results.name}: shipped result, task {made.task}, computed {made.created} with {made.version} on "
        f"{made.device} (torch {made.torch}, {made.seconds / 60:.0f} min). Not in this catalogue; "
        f"compute it with: {command('run', results.name)}",
    )
    named = {row.configuration_id: row.label for row in results.read("configurations", ComparedConfiguration)}
    lds, labels = results.read("lds", ComparedLds), results.read("noisy_labels", _Auc)
    if lds:
        _print_best(console, lds, named)
    if labels:
        best: dict[str, _Auc] = {}
        for row in labels:
            known = best.get(row.configuration_id)
            best[row.configuration_id] = row if known is None or row.auc > known.auc else known
        cells = [[named[key], interval(row.auc, row.auc_low, row.auc_high)] for key, row in best.items()]
        print_table(console, ["configuration", "best AUC of wrong labels [95 %]"], cells)
    print_verdicts(console, results.read("verdicts", Verdict))


def _print_best(console: Console, lds: Sequence[ComparedLds], named: Mapping[str, str]) -> None:
    best: dict[tuple[str, float], ComparedLds] = {}
    for row in lds:
        known = best.get((row.configuration_id, row.alpha))
        if not is_missing(row.mean) and (known is None or (row.mean or 0.0) > (known.mean or 0.0)):
            best[row.configuration_id, row.alpha] = row
    cells = [
        [
            named[row.configuration_id],
            f"{row.alpha:g}",
            interval(row.mean, row.ci_low, row.ci_high),
            number(row.regularization, ".2g"),
            row.num_subsets,
        ]
        for row in best.values()
    ]
    print_table(console, ["configuration", "α", "best LDS [95 %]", "at λ", "subsets"], cells)
