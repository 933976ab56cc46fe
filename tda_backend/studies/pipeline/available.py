"""How much memory this process may still take: the machine's, its container's, and its own limit."""

from __future__ import annotations

import resource
from pathlib import Path

import psutil
import torch

_CGROUP = Path("/sys/fs/cgroup")
_UNLIMITED = 2**62


def available_bytes() -> int:
    """Return the smallest of what is free, what the container has left, and what ``ulimit -v`` leaves."""
    return max(0, min(psutil.virtual_memory().available, _container_bytes(), _limit_bytes()))


def free_bytes(device: torch.device) -> int:
    """Return how many bytes of a device are free; of one that does not say it, of this machine."""
    known = getattr(getattr(torch, device.type, None), "mem_get_info", None)
    return available_bytes() if known is None else int(known(device)[0])


def _container_bytes() -> int:
    """Return what the container has left; files that the system keeps in memory make way."""
    try:
        most = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
        facts = dict(line.split(maxsplit=1) for line in (_CGROUP / "memory.stat").read_text().splitlines())
        return most - used + int(facts.get("inactive_file", 0))
    except (OSError, ValueError):  # no container, another system, or the word "max"
        return _UNLIMITED


def _limit_bytes() -> int:
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    return _UNLIMITED if most == resource.RLIM_INFINITY else most - psutil.Process().memory_info().vms
