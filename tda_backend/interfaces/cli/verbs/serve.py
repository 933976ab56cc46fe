"""``tda serve``: the dashboard."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from tda_backend.interfaces.cli.verb import add_server

if TYPE_CHECKING:
    from rich.console import Console


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb\'s arguments."""
    parser.add_argument("--read-only", action="store_true", help="look only: no runs, the catalogue is not written")
    add_server(parser)


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Run the command and return its exit code."""
    from tda_backend.interfaces.cli.serving import serve

    return serve(arguments, console)
