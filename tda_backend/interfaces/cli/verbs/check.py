"""``tda check``: does a task keep the contract?"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from tda_backend.interfaces.cli.verb import add_json

if TYPE_CHECKING:
    from rich.console import Console


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb\'s arguments."""
    parser.add_argument("task", metavar="TASK", help="built-in name, package.module:factory or FILE.py:FACTORY")
    add_json(parser)


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Run the command and return its exit code."""
    from tda_backend.interfaces.cli.printing import print_json, print_line
    from tda_backend.models.checking.check import check_task
    from tda_backend.models.tasks.registry import load_task

    checks = check_task(load_task(arguments.task), arguments.task)
    if arguments.json:
        print_json([{"name": row.name, "passed": row.passed, "detail": row.detail} for row in checks])
    else:
        for row in checks:
            print_line(console, f"{'ok  ' if row.passed else 'FAIL'} {row.name}: {row.detail}")
    return 0 if all(row.passed for row in checks) else 1
