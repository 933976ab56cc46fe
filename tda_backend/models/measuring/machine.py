"""How fast this machine computes: rates of a few operations, measured once a process in about a tenth of a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from tda_backend.models.probe import home_of

_SINGLE, _DOUBLE, _EIGH = 512, 384, 192
"""Sides of the matrices that are multiplied and decomposed."""
_COPIED = 2**22
"""Numbers that are copied, float32: more than a cache holds."""
_REPEATS = 3


@dataclass(frozen=True)
class Machine:
    """What a device does in a second; float64 beside a device that has none.

    Attributes:
        single: Operations of float32 matrix products.
        double: Operations of float64 matrix products.
        eigh: n³ of the eigenvectors of symmetric float64 matrices n × n.
        copied: Bytes that are read and written elsewhere.
    """

    single: float
    double: float
    eigh: float
    copied: float


SERVER = Machine(single=60e9, double=30e9, eigh=2e9, copied=3e9)
"""One core of a 2 GHz server: what is assumed where nothing was measured."""


@cache
def machine(device: str) -> Machine:
    """Return the rates of a device.

    Args:
        device: Type of device, e.g. ``cpu``.
    """
    home = home_of(device)
    like: dict[str, Any] = {"dtype": torch.float64, "device": home}
    one, other = torch.ones(_SINGLE, _SINGLE, device=device), torch.ones(_DOUBLE, _DOUBLE, **like)
    square = torch.linspace(0, 1, _EIGH**2, **like).view(_EIGH, _EIGH)
    square, many = square + square.T, torch.ones(_COPIED, device=device)
    return Machine(
        2 * _SINGLE**3 / fastest(lambda: one @ one),
        2 * _DOUBLE**3 / fastest(lambda: other @ other),
        _EIGH**3 / fastest(lambda: torch.linalg.eigh(square)[1]),
        many.nbytes / fastest(many.clone),
    )


def fastest(run: Callable[[], Tensor], repeats: int = _REPEATS) -> float:
    """Return the seconds of the fastest of some calls after a first one; waits for the device.

    Args:
        run: Returns a tensor that the call has computed.
        repeats: Calls that are timed.
    """
    found = []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        run().flatten()[:1].tolist()
        found.append(time.perf_counter() - begun)
    return max(min(found[1:]), 1e-9)
