"""What ``tda backup`` and ``tda restore`` print."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tda_backend.interfaces.cli.printing import print_line, size
from tda_backend.studies.store.backup import Copied


@contextmanager
def tracked(console: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    """Draw a bar where there is a terminal; yield what moves it."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def report(console: Console, copied: Copied, what: str) -> int:
    """Print what was copied and return the exit code."""
    text = f"{copied.artifacts} artifacts {what} ({size(copied.bytes)}), {copied.there} were there: {copied.path}"
    print_line(console, text)
    if not copied.damaged:
        return 0
    print_line(console, f"{len(copied.damaged)} damaged artifacts were left out: {', '.join(copied.damaged)}")
    print_line(console, "Mend them with `tda doctor --repair` and run their studies again.")
    return 1
