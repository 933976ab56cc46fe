"""``tda run``: compute a study."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from tda_backend.interfaces.cli.verb import add_request

if TYPE_CHECKING:
    from rich.console import Console


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb\'s arguments."""
    add_request(parser)
    parser.add_argument(
        "--memory", type=float, metavar="GIB", help="refuse a study that needs more (default: what is free)"
    )
    parser.add_argument("--executor", choices=["local", "ray"], default="local", help="ray is the optional extra 'ray'")


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Run the command and return its exit code."""
    from tda_backend.interfaces.cli.running import run_study

    return run_study(arguments, console)
