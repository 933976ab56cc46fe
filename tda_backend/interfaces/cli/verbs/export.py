"""``tda export``: a study's results as small files."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from tda_backend.interfaces.cli.verb import add_study

if TYPE_CHECKING:
    from rich.console import Console


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb\'s arguments."""
    add_study(parser)
    parser.add_argument("--to", choices=["parquet"], default="parquet")
    parser.add_argument("--out", metavar="FOLDER", default="results", help="default: results; a folder a study")


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Run the command and return its exit code."""
    from pathlib import Path

    from tda_backend.interfaces.cli.printing import print_line, size
    from tda_backend.interfaces.papers.shipped import export_results
    from tda_backend.interfaces.reading.study import open_study

    paths = export_results(open_study(arguments.study, arguments.db), Path(arguments.out).expanduser())
    total = size(sum(path.stat().st_size for path in paths))
    print_line(console, f"{len(paths)} files, {total}: {paths[0].parent}")
    return 0
