"""``tda select``: λ* of every configuration, beside its baselines."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tda_backend.interfaces.cli.verb import add_json, add_study

if TYPE_CHECKING:
    from rich.console import Console

    from tda_backend.interfaces.reading.records.selections import SelectionRow


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb\'s arguments."""
    add_study(parser)
    parser.add_argument("--alpha", type=float, metavar="A", help="only this subset fraction")
    add_json(parser)


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Run the command and return its exit code."""
    from tda_backend.interfaces.cli.overview import print_remarks
    from tda_backend.interfaces.cli.printing import interval, number, print_json, print_line, print_table
    from tda_backend.interfaces.reading.records.base import records
    from tda_backend.interfaces.reading.records.selections import SelectionRow, TuningRow, chosen_without_truth
    from tda_backend.interfaces.reading.remarks import beyond_grid
    from tda_backend.interfaces.reading.study import open_study
    from tda_backend.interfaces.reading.truncation import lacking_at

    study = open_study(arguments.study, arguments.db)
    alpha = None if arguments.alpha is None else study.known_alpha(arguments.alpha)
    rows = records(study.selections(alpha), SelectionRow)
    chosen = chosen_without_truth(records(study.tuning(alpha), TuningRow))
    if arguments.json:
        print_json([_json(row, chosen) for row in rows])
        return 0
    shares = [each.share for each in rows[0].baselines] if rows else []
    columns = ["configuration", "α", "λ*", "ξ̄", "LDS at λ* [95 %]", "best λ", "LDS", "regret", "λ = 0"]
    cells = [
        [
            row.label,
            f"{row.alpha:g}",
            number(row.lambda_selected, ".2g"),
            number(row.xi_at_selected),
            interval(row.lds_selected, row.lds_selected_low, row.lds_selected_high),
            number(row.lambda_best, ".2g"),
            number(row.lds_best),
            number(row.regret),
            number(row.lds_at_zero),
            *(number(each.lds) for each in row.baselines),
        ]
        for row in rows
    ]
    print_table(console, [*columns, *(f"σ q{share:g}" for share in shares)], cells)
    for row in rows:
        for warning in row.warnings:
            print_line(console, f"{row.label}: {warning}")
        for rule in chosen.get(row.configuration_id, ()):
            print_line(console, f"{row.label}: chosen without retraining, {rule}")
        outside = beyond_grid(study, row.configuration_id, row.lambda_selected)
        if outside and not row.warnings:  # which say it of the configuration's own grid
            print_line(console, f"{row.label}: λ*: {outside}")
        lacking = lacking_at(study, row.configuration_id, row.lambda_selected)
        if lacking:
            print_line(console, f"{row.label}: λ*: {lacking}")
    print_remarks(study, console)
    if not rows:
        console.print("No λ has been selected yet.", highlight=False)
    return 0


def _json(row: SelectionRow, chosen: Mapping[str, list[str]]) -> dict[str, Any]:
    """Return the object of one configuration; where there is no ground truth, with the rules that choose it."""
    return row.to_json() if not chosen else {**row.to_json(), "chosen_by": chosen.get(row.configuration_id, [])}
