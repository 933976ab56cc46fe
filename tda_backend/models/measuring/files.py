"""The rates of a machine as a file: measured where a study will run, read where it is planned."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from tda_backend.errors import UsageError
from tda_backend.models.measuring.machine import Machine, machine

_LARGEST = 2**16
"""Bytes of such a file, at most."""


@dataclass(frozen=True)
class NamedMachine:
    """A machine with a name.

    Attributes:
        name: For people.
        device: Type of device that the rates are of.
        rates: What it does in a second.
    """

    name: str
    device: str
    rates: Machine

    def to_json(self) -> dict[str, Any]:
        """Return what a file of it holds."""
        return {"name": self.name, "device": self.device, "torch": torch.__version__, **vars(self.rates)}


def this_machine(name: str, device: str) -> NamedMachine:
    """Return this machine, its rates measured.

    Args:
        name: For people.
        device: Type of device, e.g. ``cpu``.
    """
    return NamedMachine(name, device, machine(device))


def read_machine(path: str | Path) -> NamedMachine:
    """Return the machine that ``tda machine --json`` has written to a file.

    Raises:
        UsageError: There is no such file, or it does not hold a machine's rates.
    """
    try:
        with Path(path).open(encoding="utf-8") as file:
            content = json.loads(file.read(_LARGEST))
        rates = {each.name: content[each.name] for each in fields(Machine)}
        name, device = content["name"], content["device"]
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.", _HINT) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is not the file of a machine.", _HINT) from error
    wrong = [
        key
        for key, value in rates.items()
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0
    ]
    if wrong or not isinstance(name, str) or not isinstance(device, str):
        raise UsageError(f"{path}: {', '.join(wrong) or 'name or device'} of a machine is wrong.", _HINT)
    return NamedMachine(name, device, Machine(**rates))


_HINT = "Run `tda machine --json` on the machine that is meant, keep what it prints in a file, and give that file."
