"""``tda backup``: a copy of a workspace, made while it is used."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("target", metavar="FOLDER|FILE.tar", help="a folder is brought up to date, a file is new")


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Run the command and return its exit code: 1 where a damaged artifact was left out."""
    from pathlib import Path

    from tda_backend.interfaces.cli.copying import report, tracked
    from tda_backend.studies.store.backup import back_up
    from tda_backend.studies.store.workspace import Workspace

    target = Path(arguments.target).expanduser()
    with tracked(console, "backing up") as progress:
        copied = back_up(Workspace.at(arguments.db), target, progress)
    return report(console, copied, "backed up")
