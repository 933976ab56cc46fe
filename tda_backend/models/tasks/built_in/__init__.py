"""The built-in tasks: a new one is one file in this folder, or one class in a file of it.

A file names its tasks in ``TASKS``; ``PLACE`` says where lists show them, those of a file without it come last.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Callable

from tda_backend.types import Task


def _collected() -> dict[str, Callable[[], Task]]:
    modules = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
    ordered = sorted(modules, key=lambda module: (getattr(module, "PLACE", math.inf), module.__name__))
    return {made.name: made for module in ordered for made in getattr(module, "TASKS", ())}


BUILT_IN = _collected()
"""What ``--task NAME`` knows by name."""
