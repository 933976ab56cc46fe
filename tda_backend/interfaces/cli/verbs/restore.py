"""``tda restore``: what a backup holds, back into a workspace, while it is used."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("source", metavar="FOLDER|FILE.tar", help="what `tda backup` made")


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Run the command and return its exit code: 1 where a damaged artifact was left out."""
    from pathlib import Path

    from tda_backend.interfaces.cli.copying import report, tracked
    from tda_backend.studies.pipeline.courier import take_in
    from tda_backend.studies.steps.table import KINDS
    from tda_backend.studies.store.backup import bring_back
    from tda_backend.studies.store.workspace import Workspace

    workspace = Workspace.at(arguments.db)
    with tracked(console, "restoring") as progress:
        copied = bring_back(workspace, Path(arguments.source).expanduser(), progress)
    take_in(workspace, KINDS, patience=10.0)
    return report(console, copied, "restored")
