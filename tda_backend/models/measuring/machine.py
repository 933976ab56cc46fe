"""How fast this machine computes: rates of a few operations, measured once a process in about a tenth of a second."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from tda_backend.models.probe import home_of
from tda_backend.models.tasks.threads import one_thread

_SINGLE, _DOUBLE, _EIGH = 512, 384, 320
"""Sides of the matrices that are multiplied and decomposed."""
_COPIED = 2**22
"""Numbers that are copied, float32: more than a cache holds."""
_CALLS = 200
"""Operations on one number that are timed together."""
_REPEATS = 3
_LARGER = 1.5
"""How much faster a large matrix is decomposed, in n³ a second, than the one that is timed (measured on one core)."""


@dataclass(frozen=True)
class Machine:
    """What a device does in a second; float64 beside a device that has none.

    Attributes:
        single: Operations of float32 matrix products.
        double: Operations of float64 matrix products.
        eigh: n³ of the eigenvectors of large symmetric float64 matrices n × n.
        copied: Bytes that are read and written elsewhere.
        calls: Operations on next to nothing, which take what calling them takes.
        threads: That products and decompositions use; passes over a model are timed on one.
    """

    single: float
    double: float
    eigh: float
    copied: float
    calls: float = 5e5
    threads: int = 1


SERVER = Machine(single=60e9, double=30e9, eigh=2e9, copied=3e9)
"""One core of a 2 GHz server: what is assumed where nothing was measured."""


@cache
def machine(device: str) -> Machine:
    """Return the rates of a device.

    Those of a processor are measured on one thread, whatever else it does, and counted for each thread that PyTorch
    may use: large products and decompositions use all of them, and threads that wait for each other tell nothing.

    Args:
        device: Type of device, e.g. ``cpu``.
    """
    threads = torch.get_num_threads()
    with one_thread():
        counts = [threads if torch.device(each).type == "cpu" else 1 for each in (device, home_of(device))]
        return _machine(device, *counts)


def _machine(device: str, threads: int, threads_at_home: int) -> Machine:
    home = home_of(device)
    like: dict[str, Any] = {"dtype": torch.float64, "device": home}
    one, other = torch.ones(_SINGLE, _SINGLE, device=device), torch.ones(_DOUBLE, _DOUBLE, **like)
    square = torch.linspace(0, 1, _EIGH**2, **like).view(_EIGH, _EIGH)
    square, many = square + square.T, torch.ones(_COPIED, device=device)
    number = torch.ones(1, device=device)

    def called() -> Tensor:
        for _ in range(_CALLS):
            found = number + 1
        return found

    return Machine(
        threads * 2 * _SINGLE**3 / typical(lambda: one @ one, device),
        threads_at_home * 2 * _DOUBLE**3 / typical(lambda: other @ other, home.type),
        threads_at_home * _LARGER * _EIGH**3 / typical(lambda: torch.linalg.eigh(square)[1], home.type),
        many.nbytes / typical(many.clone, device),
        _CALLS / typical(called, device),
        threads,
    )


def typical(run: Callable[[], Tensor], device: str, repeats: int = _REPEATS) -> float:
    """Return the median seconds of some calls after a first one; waits for the device.

    On processors it is the time of the processor where that is less, so that what other programs do decides little.

    Args:
        run: Returns a tensor that the call has computed.
        device: Type of device that computes it.
        repeats: Calls that are timed.
    """
    found = []
    for _ in range(repeats + 1):
        begun, used = time.perf_counter(), time.process_time()
        run().flatten()[:1].tolist()
        took = time.perf_counter() - begun
        found.append(min(took, time.process_time() - used) if device == "cpu" else took)
    return max(statistics.median(found[1:]), 1e-9)
