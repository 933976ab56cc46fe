"""The command ``tda``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from tda_backend.errors import TDAError, UsageError

EXIT_INTERRUPTED = 130


class _Parser(argparse.ArgumentParser):
    """Reports a wrong command line as every other error: one line and a hint."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message[:1].upper()}{message[1:]}.", f"See `{self.prog} --help`.")


def _common() -> _Parser:
    common = _Parser(add_help=False)
    common.add_argument("--db", metavar="FILE", help="catalogue file (default: $TDA_DB or workspace/catalogue.duckdb)")
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return common


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = _Parser(prog="tda", description="Training data attribution: compute a study once, then turn λ.",
                     epilog="Start with: tda demo")  # fmt: skip
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    common = _common()

    def add(name: str, summary: str, example: str) -> argparse.ArgumentParser:
        first = summary[0].upper() if summary[0].isascii() else summary[0]  # λ stays small
        return commands.add_parser(
            name, parents=[common], help=summary, description=f"{first}{summary[1:]}.",
            epilog=f"Example: {example}", formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip

    run = add("run", "compute a study; finished steps are never computed again", "tda run mnist-mlp --quick")
    planning = add("plan", "what a study would compute and what that costs; starts nothing", "tda plan mnist-mlp")
    for each in (run, planning):
        each.add_argument(
            "study", nargs="?", metavar="STUDY", help="a STUDY.toml, an embedded study or one of the catalogue"
        )
        each.add_argument(
            "--task", metavar="FILE.py:FACTORY", help="your own task; without STUDY a default study of it"
        )
        each.add_argument(
            "--quick", action="store_true", help="a small version (600 training examples, under a minute)"
        )
        each.add_argument("--device", choices=["auto", "cpu", "cuda", "mps"], default="auto")
        each.add_argument("--set", action="append", default=[], metavar="KEY=VALUE",
                          help="change a setting of the study, e.g. --set ground_truth.subsets=20")  # fmt: skip
    _json(planning)
    run.add_argument(
        "--memory", type=float, metavar="GIB", help="refuse a study that needs more (default: what is free)"
    )
    run.add_argument("--executor", choices=["local", "ray"], default="local", help="ray is the optional extra 'ray'")

    demo = add("demo", "open the dashboard and compute the embedded study beside it", "tda demo --port 8600")
    demo.add_argument("--quick", action="store_true", help="the small version of the study")
    serve = add("serve", "open the dashboard", "tda serve --port 8600")
    serve.add_argument("--read-only", action="store_true", help="look only: no runs, the catalogue is not written")
    for server in (demo, serve):
        server.add_argument("--port", type=int, metavar="N", help="default 8501 (demo: the next free one)")
        server.add_argument("--no-browser", action="store_true", help="do not open a browser")

    _json(add("studies", "list the studies of a catalogue with status and disk use", "tda studies"))
    show = add("show", "show a study: configurations, LDS, what each step cost", "tda show mnist-mlp --json")
    show.add_argument("study", metavar="STUDY")
    _json(show)
    select = add("select", "λ* with its ξ, the quantile baselines, LDS and regret", "tda select mnist-mlp --json")
    select.add_argument("study", metavar="STUDY")
    select.add_argument("--alpha", type=float, metavar="A", help="only this subset fraction")
    _json(select)
    papers = add("papers", "the papers' claims and whether our figures show them", "tda papers --json")
    papers.add_argument("--markdown", action="store_true", help="print a Markdown table")
    _json(papers)
    export = add("export", "write a study's results as small files", "tda export mnist-mlp --to parquet --out results")
    export.add_argument("study", metavar="STUDY")
    export.add_argument("--to", choices=["parquet"], default="parquet")
    export.add_argument("--out", metavar="FOLDER", default="results", help="default: results; a folder a study")
    check = add("check", "check that a task keeps the contract", "tda check my_task.py:factory")
    check.add_argument("task", metavar="TASK", help="built-in name, package.module:factory or FILE.py:FACTORY")
    _json(check)
    doctor = add("doctor", "check versions, device, disk, artifacts and catalogue", "tda doctor --repair")
    doctor.add_argument(
        "--repair", action="store_true", help="set damaged artifacts aside, rebuild a damaged catalogue"
    )
    _json(doctor)
    add("rebuild", "make the catalogue again from the artifacts", "tda rebuild --db workspace/catalogue.duckdb")
    remove = add("rm", "remove a study and the artifacts that only it uses", "tda rm mnist-mlp-quick")
    remove.add_argument("study", nargs="?", metavar="STUDY")
    remove.add_argument("--unused", action="store_true", help="remove artifacts that no study refers to instead")
    remove.add_argument("--yes", action="store_true", help="do not ask")
    _json(add("methods", "list the attribution methods", "tda methods"))
    return parser


def dispatch(arguments: argparse.Namespace) -> int:
    """Run one parsed command and return its exit code."""
    from rich.console import Console

    console = Console(soft_wrap=False)
    if arguments.command == "run":
        from tda_backend.runs.run_command import run_command

        return run_command(arguments, console)
    if arguments.command in ("serve", "demo"):
        from tda_backend.runs import server

        return server.demo(arguments, console) if arguments.command == "demo" else server.serve(arguments, console)
    from tda_backend.runs import commands

    return commands.COMMANDS[arguments.command](arguments, console)


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``tda`` and return its exit code: 0, 1 (failed), 2 (not allowed), 130 (Ctrl-C)."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    try:
        arguments = build_parser().parse_args(words)
        if arguments.version:
            from tda_backend import __version__

            sys.stdout.write(f"tda-dashboard {__version__}\n")
            return 0
        if arguments.command is None:
            build_parser().print_help()
            return 2
        return dispatch(arguments)
    except TDAError as error:
        if debug:
            raise
        sys.stderr.write(f"tda: {error.message}\n")
        if error.hint:
            sys.stderr.write(f"hint: {error.hint}\n")
        return error.exit_code
    except KeyboardInterrupt:
        if debug:
            raise
        sys.stderr.write("tda: interrupted.\nhint: run the same command again to go on.\n")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # the reader of a pipe (head, less) has gone: nothing to report, nobody to tell
        return 0
    except Exception as error:
        if debug:
            raise
        text = str(error).strip().splitlines()
        sys.stderr.write(f"tda: unexpected {type(error).__name__}{': ' + text[0][:300] if text else ''}\n")
        sys.stderr.write("hint: run the same command with --debug to see where; finished steps are kept.\n")
        return 1
