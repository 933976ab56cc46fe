"""What a verb of ``tda`` is, and pieces of its arguments. Nothing here takes long to import: ``tda --help`` does."""

from __future__ import annotations

import argparse
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple, NoReturn, cast

from tda_backend.errors import UsageError

if TYPE_CHECKING:
    from typing import Protocol

    from rich.console import Console

    class VerbModule(Protocol):
        """What a module in ``verbs`` has."""

        def arguments(self, parser: argparse.ArgumentParser) -> None: ...

        def run(self, arguments: argparse.Namespace, console: Console) -> int: ...


EXIT_INTERRUPTED = 130


class Parser(argparse.ArgumentParser):
    """Reports a wrong command line as every other error: one line and a hint."""

    def error(self, message: str) -> NoReturn:
        """Raise a UsageError that says what is wrong."""
        raise UsageError(f"{message[:1].upper()}{message[1:]}.", f"See `{self.prog} --help`.")


class Verb(NamedTuple):
    """One command. A named tuple, for importing ``dataclasses`` would take ``tda --help`` a third longer.

    Attributes:
        name: What is typed after ``tda``, and the name of its module in ``verbs``, which is imported when the command
            is typed: ``tda --help`` needs none of them.
        summary: Its line in the list of commands.
        example: A whole command line.
        only_reads: Whether it does nothing but read the catalogue, which is then opened once for all of its queries.
    """

    name: str
    summary: str
    example: str
    only_reads: bool = False

    @property
    def description(self) -> str:
        """The summary as a sentence; λ stays small."""
        first = self.summary[0].upper() if self.summary[0].isascii() else self.summary[0]
        return f"{first}{self.summary[1:]}."

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the verb's arguments to its parser."""
        self._implementation().arguments(parser)

    def run(self, arguments: argparse.Namespace, console: Console) -> int:
        """Do it and return the exit code."""
        return self._implementation().run(arguments, console)

    def _implementation(self) -> VerbModule:
        return cast("VerbModule", import_module(f"tda_backend.interfaces.cli.verbs.{self.name}"))


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that every verb has."""
    parser.add_argument("--db", metavar="FILE", help="catalogue file (default: $TDA_DB or workspace/catalogue.duckdb)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def add_study(parser: argparse.ArgumentParser) -> None:
    """Add the study that the verb is about."""
    parser.add_argument("study", metavar="STUDY")


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add the device that is computed on."""
    parser.add_argument("--device", choices=["auto", "cpu", "cuda", "mps"], default="auto")


def add_request(parser: argparse.ArgumentParser) -> None:
    """Add what says which study is to be computed, and on what."""
    parser.add_argument(
        "study", nargs="?", metavar="STUDY", help="a STUDY.toml, an embedded study or one of the catalogue"
    )
    parser.add_argument("--task", metavar="FILE.py:FACTORY", help="your own task; without STUDY a default study of it")
    parser.add_argument("--quick", action="store_true", help="a small version (600 training examples, under a minute)")
    add_device(parser)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a setting of the study, e.g. --set ground_truth.subsets=20",
    )


def add_server(parser: argparse.ArgumentParser) -> None:
    """Add where the dashboard listens, whom it lets in, what they may do, and whether a browser is opened."""
    parser.add_argument("--port", type=int, metavar="N", help="default 8501 (demo: the next free one)")
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")
    parser.add_argument(
        "--no-token",
        action="store_true",
        help="let in everybody who reaches the port, other users of this machine too (default: only who knows the "
        "token of the printed address; $TDA_TOKEN gives one of your own)",
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="serve under this name too, e.g. that of a proxy before it (default: this machine's own names)",
    )
    parser.add_argument(
        "--allow-task-files",
        action="store_true",
        help="let visitors run task files and modules of their own, which is code with your rights",
    )
