"""``tda rm``: a study and the artifacts that only it uses."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from tda_backend.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from tda_backend.studies.store.workspace import Workspace


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb\'s arguments."""
    parser.add_argument("study", nargs="?", metavar="STUDY")
    parser.add_argument("--unused", action="store_true", help="remove artifacts that no study refers to instead")
    parser.add_argument("--yes", action="store_true", help="do not ask")


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Run the command and return its exit code."""
    from tda_backend.interfaces.cli.printing import size
    from tda_backend.interfaces.reading.study import open_study
    from tda_backend.studies.store import rebuild
    from tda_backend.studies.store.locks import removing
    from tda_backend.studies.store.workspace import Workspace

    workspace = Workspace.at(arguments.db)
    if bool(arguments.study) == bool(arguments.unused):
        raise UsageError("Name a study, or give --unused.", "E.g. `tda rm mnist-mlp-quick`, or `tda rm --unused`.")
    use = rebuild.disk_use(workspace)
    if arguments.unused:
        if not _confirmed(arguments, console, f"Remove {size(use.unused + use.damaged)} of unused artifacts?"):
            return 1
        with removing(workspace):
            if _active(workspace):
                raise UsageError("A run is going on; its results have no study yet.", "Wait for it, or cancel it.")
            freed = rebuild.remove_unused(workspace)
    else:
        study = open_study(arguments.study, workspace)
        if arguments.study not in (study.name, study.study_id):
            raise UsageError(f"There is no study {arguments.study!r}.", f"Did you mean {study.name}?")
        amount = size(use.studies.get(study.study_id, 0))
        if not _confirmed(arguments, console, f"Remove study {study.name} ({study.study_id}), up to {amount}?"):
            return 1
        with removing(workspace):  # asked now: a run may have begun while the question stood
            if study.study_id in _active(workspace):
                raise UsageError(f"Study {study.name} is being computed.", "Cancel the run first.")
            freed = rebuild.remove_study(workspace, study.study_id)
    console.print(f"Freed {size(freed)}.", highlight=False)
    return 0


def _active(workspace: Workspace) -> set[str]:
    """Return the studies that runs compute at this moment; a run that is starting has an empty name."""
    from tda_backend.studies.jobs import jobs

    return {job.study_id for job in jobs.list_jobs(workspace) if job.is_running}


def _confirmed(arguments: argparse.Namespace, console: Console, question: str) -> bool:
    import sys

    if arguments.yes:
        return True
    if not sys.stdin.isatty():
        raise UsageError(f"{question} There is no terminal to answer at.", "Add --yes.")
    return console.input(f"{question} [y/N] ", markup=False).strip().lower() in ("y", "yes")
