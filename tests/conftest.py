"""What holds for all tests."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Generator
from pathlib import Path

import psutil
import pytest

IN_MEMORY = Path("/dev/shm")
"""Where Linux keeps files in memory."""
ROOM = 4 * 2**30
"""Bytes that have to be free there; the whole suite leaves a fifth of them."""

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


def _keep_temporary_files_in_memory() -> None:
    """Let temporary files of tests and their processes lie in memory, unless ``TMPDIR`` says where or there is no room.

    A run of a tiny study flushes some hundred files, and a disk that two test processes use answers late.
    """
    if "TMPDIR" in os.environ or not os.access(IN_MEMORY, os.W_OK):
        return
    if min(shutil.disk_usage(IN_MEMORY).free, psutil.virtual_memory().available) >= ROOM:
        os.environ["TMPDIR"] = tempfile.tempdir = str(IN_MEMORY)


_keep_temporary_files_in_memory()


def pytest_collection_finish() -> None:
    """Let no garbage collection look through what lives as long as the tests: six thousand items, and all modules."""
    _keep()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, object, object]:
    """Let none after a file of tests look through what that leaves: code that was compiled, caches, libraries.

    Code that runs out of memory collects garbage each time it halves a block.
    """
    done = yield
    if nextitem is None or nextitem.path != item.path:
        _keep()
    return done


def _keep() -> None:
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let all be garbage again, as libraries expect where a process ends."""
    gc.unfreeze()
