"""``tda show``: a study with its configurations, LDS, verdicts, and what each step cost."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from tda_backend.errors import CatalogueError, UsageError
from tda_backend.interfaces.cli.verb import add_json, add_study

if TYPE_CHECKING:
    from rich.console import Console


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb\'s arguments."""
    add_study(parser)
    add_json(parser)


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Show a study of the catalogue, else the shipped results of that name."""
    from tda_backend.interfaces.cli.overview import show_study, study_json
    from tda_backend.interfaces.cli.printing import print_json
    from tda_backend.interfaces.cli.shipped import shipped_json, show_shipped
    from tda_backend.interfaces.papers.shipped import shipped_names, shipped_results
    from tda_backend.interfaces.reading.study import open_study

    try:
        study = open_study(arguments.study, arguments.db)
    except (UsageError, CatalogueError):
        if arguments.study not in shipped_names():
            raise
        results = shipped_results(arguments.study)
        if arguments.json:
            print_json(shipped_json(results))
        else:
            show_shipped(results, console)
        return 0
    if arguments.json:
        print_json(study_json(study))
    else:
        show_study(study, console)
    return 0
