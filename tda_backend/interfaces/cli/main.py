"""The command ``tda``."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence

from tda_backend.errors import TDAError, ran_out_of_memory
from tda_backend.interfaces.cli.table import VERBS
from tda_backend.interfaces.cli.verb import EXIT_INTERRUPTED, Parser, add_common


def build_parser(words: Sequence[str] | None = None) -> argparse.ArgumentParser:
    """Return the parser of all commands; with ``words``, only the commands among them have their own arguments."""
    parser = Parser(
        prog="tda",
        description="Training data attribution: compute a study once, then turn λ.",
        epilog="Start with: tda demo",
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    for verb in VERBS.values():
        own = commands.add_parser(
            verb.name,
            help=verb.summary,
            description=verb.description,
            epilog=f"Example: {verb.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if words is None or verb.name in words:
            add_common(own)
            verb.arguments(own)
    return parser


def dispatch(arguments: argparse.Namespace) -> int:
    """Run one parsed command and return its exit code."""
    from rich.console import Console

    verb = VERBS[arguments.command]
    with _held(arguments) if verb.only_reads else contextlib.nullcontext():
        return verb.run(arguments, Console(soft_wrap=False))


def _held(arguments: argparse.Namespace) -> contextlib.AbstractContextManager[None]:
    from tda_backend.studies.store.catalogue import held
    from tda_backend.studies.store.workspace import Workspace

    return held(Workspace.at(arguments.db))


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``tda`` and return its exit code: 0, 1 (failed), 2 (not allowed), 130 (Ctrl-C)."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    try:
        arguments = build_parser(words).parse_args(words)
        if arguments.version:
            from tda_backend import __version__

            sys.stdout.write(f"tda-dashboard {__version__}\n")
            return 0
        if arguments.command is None:
            build_parser(words).print_help()
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
        if ran_out_of_memory(error):
            sys.stderr.write("tda: Memory ran out.\n")
            sys.stderr.write("hint: Close other programs, or ask for fewer examples; finished steps are kept.\n")
            return 1
        text = str(error).strip().splitlines()
        sys.stderr.write(f"tda: unexpected {type(error).__name__}{': ' + text[0][:300] if text else ''}\n")
        sys.stderr.write("hint: run the same command with --debug to see where; finished steps are kept.\n")
        return 1
