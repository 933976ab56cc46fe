"""``tda studies``: the studies of a catalogue."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from tda_backend.interfaces.cli.verb import add_json

if TYPE_CHECKING:
    from rich.console import Console


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    add_json(parser)


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Run the command and return its exit code."""
    from tda_backend.interfaces.cli.printing import interval, print_json, print_table, size
    from tda_backend.interfaces.reading.records.base import records
    from tda_backend.interfaces.reading.records.studies import StudyRow
    from tda_backend.interfaces.reading.study import list_studies
    from tda_backend.studies.store.rebuild import disk_use
    from tda_backend.studies.store.workspace import Workspace

    workspace = Workspace.at(arguments.db)
    frame = list_studies(workspace)
    rows, use = records(frame, StudyRow), disk_use(workspace)
    amounts = [use.studies.get(row.study_id, 0) for row in rows]
    if arguments.json:
        print_json(frame.assign(bytes=amounts).to_dict("records"))
        return 0
    cells = [
        [
            row.name,
            row.study_id,
            row.task,
            row.status,
            f"{row.steps_done}/{row.steps_total}",
            row.num_configurations,
            row.best_method or "–",
            interval(row.best_lds, row.best_lds_low, row.best_lds_high),
            size(amount),
        ]
        for row, amount in zip(rows, amounts, strict=True)
    ]
    columns = ["study", "id", "task", "status", "steps", "configurations", "best", "LDS [95 %]", "disk"]
    print_table(console, columns, cells)
    for name, amount in use.removable:
        console.print(f"{size(amount)} of {name} artifacts: tda rm --unused", highlight=False)
    return 0
