"""``tda machine``: how fast this machine computes, for plans that are made elsewhere."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from tda_backend.interfaces.cli.verb import add_device, add_json

if TYPE_CHECKING:
    from rich.console import Console


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb\'s arguments."""
    parser.add_argument("--name", metavar="NAME", help="what plans call it (default: its host name)")
    add_device(parser)
    add_json(parser)


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Measure the rates that estimates rest on and print them."""
    import platform

    from tda_backend.interfaces.cli.printing import print_json, print_line, print_table
    from tda_backend.interfaces.cli.request import chosen_device
    from tda_backend.models.measuring.files import this_machine

    found = this_machine(arguments.name or platform.node() or "unnamed", chosen_device(arguments.device))
    if arguments.json:
        print_json(found.to_json())
        return 0
    rates = found.rates
    rows = [
        ["float32 matrix products", f"{rates.single / 1e9:.0f} GFLOP/s"],
        ["float64 matrix products", f"{rates.double / 1e9:.0f} GFLOP/s"],
        ["float64 eigenvectors of 5 000 × 5 000", f"{5000**3 / rates.eigh:.1f} s"],
        ["copying", f"{rates.copied / 1e9:.1f} GB/s"],
        ["calls of small operations", f"{1e6 / rates.calls:.1f} µs each"],
    ]
    threads = f", {rates.threads} threads" if found.device == "cpu" else ""
    print_table(console, ["what", "rate"], rows, f"{found.name} ({found.device}{threads})")
    print_line(
        console,
        "Measured just now. For `tda plan STUDY --machine FILE`, keep in FILE what `tda machine --json` prints.",
    )
    return 0
