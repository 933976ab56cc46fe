"""What holds for all tests."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import pytest

# A shell that starts a job in the background makes it ignore SIGINT and SIGQUIT, and `nohup` a hangup, and so would
# every program that a test starts: those that test these would wait forever. A handler of Python's own is not
# inherited; children get the default.
if threading.current_thread() is threading.main_thread():
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)
    if signal.getsignal(signal.SIGQUIT) == signal.SIG_IGN:
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)

LONGEST = ("studies", "browser")
"""Folders whose files take minutes each: begun last, one would keep a worker while the other has nothing left."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files; the others keep their order."""
    here = Path(__file__).parent

    def turn(item: pytest.Item) -> int:
        folder = Path(item.path).relative_to(here).parts[0]
        return LONGEST.index(folder) if folder in LONGEST else len(LONGEST)

    items.sort(key=turn)
