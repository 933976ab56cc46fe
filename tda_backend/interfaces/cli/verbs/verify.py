"""``tda verify``: some steps of a finished study computed again, and compared with what is stored."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from tda_backend.interfaces.cli.verb import add_json, add_study

if TYPE_CHECKING:
    from rich.console import Console


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    add_study(parser)
    parser.add_argument("--steps", type=int, default=5, metavar="N", help="how many steps to compute again (default 5)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the sample: another seed, other steps")
    add_json(parser)


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Run the command and return its exit code: 1 where a result differs."""
    from tda_backend.interfaces.cli.verification import verify_study

    return verify_study(arguments, console)
