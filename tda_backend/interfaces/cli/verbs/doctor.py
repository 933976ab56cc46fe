"""``tda doctor``: is everything in order, and what to do if not."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from tda_backend.interfaces.cli.verb import add_json

if TYPE_CHECKING:
    from rich.console import Console


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb\'s arguments."""
    parser.add_argument(
        "--repair", action="store_true", help="set damaged artifacts aside, rebuild a damaged catalogue"
    )
    add_json(parser)


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Run the command and return its exit code."""
    from tda_backend.interfaces.cli.examination import examine
    from tda_backend.interfaces.cli.printing import print_json, print_line
    from tda_backend.studies.store.workspace import Workspace

    findings = examine(Workspace.at(arguments.db), arguments.repair)
    if arguments.json:
        print_json([vars(finding) for finding in findings])
    else:
        for finding in findings:
            print_line(console, f"{finding.state:<8} {finding.name}: {finding.detail}")
    return 1 if any(finding.state == "problem" for finding in findings) else 0
