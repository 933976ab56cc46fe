"""``tda methods``: the method table."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from tda_backend.interfaces.cli.verb import add_json

if TYPE_CHECKING:
    from rich.console import Console


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb\'s arguments."""
    parser.add_argument("--markdown", action="store_true", help="print Markdown tables")
    add_json(parser)


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Run the command and return its exit code."""
    import sys

    from tda_backend.interfaces.cli.method_tables import METHOD_COLUMNS, SETTING_COLUMNS, methods_markdown, values_text
    from tda_backend.interfaces.cli.printing import print_json, print_table
    from tda_backend.studies.methods import METHODS

    if arguments.json:
        print_json([spec.to_json() for spec in METHODS.values()])
        return 0
    if arguments.markdown:
        sys.stdout.write(methods_markdown())
        return 0
    print_table(
        console,
        METHOD_COLUMNS,
        [[spec.name, spec.title, spec.curve, spec.formula, spec.cost, spec.reference] for spec in METHODS.values()],
    )
    print_table(
        console,
        SETTING_COLUMNS,
        [
            [spec.name, item.name, item.range, values_text(item.default), values_text(item.grid), item.meaning]
            for spec in METHODS.values()
            for item in spec.hyperparameters
        ],
    )
    return 0
