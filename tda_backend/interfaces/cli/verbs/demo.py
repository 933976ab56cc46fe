"""``tda demo``: the dashboard, and the embedded study computed beside it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from tda_backend.interfaces.cli.verb import add_server

if TYPE_CHECKING:
    from rich.console import Console


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb\'s arguments."""
    parser.add_argument("--quick", action="store_true", help="the small version of the study")
    add_server(parser)


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Run the command and return its exit code."""
    from tda_backend.interfaces.cli.serving import demo

    return demo(arguments, console)
