"""Memory that a computation has freed serves the next one."""

from __future__ import annotations

import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import torch
from tda_backend.models.memory import keep_freed_memory

if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit(3)
for turn in range(40):
    if turn == 20:  # by now the heap has grown to what it needs
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)  # 64 MiB, above what glibc keeps by itself
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    """Return how many pages a process has touched for the first time."""
    done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True)
    if done.returncode == 3:
        pytest.skip("this C library always gives memory back")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_a_large_block_is_cleared_once():
    kept, given_back = faults("keep"), faults("give back")
    assert kept < given_back / 4
