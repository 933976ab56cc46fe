"""``tda rebuild``: the catalogue again from the artifacts."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from tda_backend.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Run the command and return its exit code."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from tda_backend.interfaces.cli.printing import print_line
    from tda_backend.studies.steps.table import KINDS
    from tda_backend.studies.store.rebuild import rebuild
    from tda_backend.studies.store.workspace import Workspace

    workspace = Workspace.at(arguments.db)
    if not workspace.artifacts.is_dir():
        raise UsageError(f"There are no artifacts in {workspace.folder}.", "Name the right catalogue with --db FILE.")
    columns = (TextColumn("rebuilding"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        counts = rebuild(workspace, KINDS, lambda done, total: bar.update(task, completed=done, total=total))
    damaged = f", {counts.skipped} damaged ones left out (tda doctor --repair)" if counts.skipped else ""
    print_line(console, f"{workspace.catalogue}: {counts.studies} studies, {counts.steps} steps{damaged}")
    return 0
