"""Run every benchmark in turn: ``python -m tests.benchmarks [--quick] [NAME ...]``; each is a process of its own."""

from __future__ import annotations

import argparse
import subprocess
import sys

NAMES = (
    "training",
    "retraining",
    "attribution",
    "features",
    "precision",
    "methods",
    "evaluation",
    "facts",
    "explorer",
    "unrolled",
    "error_proxy",
    "contract",
    "scale",
    "growth",
    "plan",
    "demo",
)


def main() -> int:
    """Run the named benchmarks (all by default) and return 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="small sizes; the ratios are rougher")
    parser.add_argument("--peers-python", metavar="PATH", help="for methods: a Python that has the extra peers")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(NAMES)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; allowed: {', '.join(NAMES)}")
    failed = []
    for name in arguments.names or NAMES:
        print(f"\n== {name} ==", flush=True)
        command = [sys.executable, "-m", f"tests.benchmarks.bench_{name}", *(["--quick"] if arguments.quick else [])]
        if name == "methods" and arguments.peers_python:
            command += ["--peers-python", arguments.peers_python]
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
    if failed:
        print(f"\nfailed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
