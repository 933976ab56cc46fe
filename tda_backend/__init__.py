"""Training data attribution: compute once, then turn λ. ``open_study`` is the way in for scripts and notebooks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tda_backend.runs.api import Study, list_studies, open_study

__all__ = ["Study", "list_studies", "open_study"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Lazy: importing the package must not import torch, which takes seconds.
    if name in __all__:
        from importlib import import_module

        return getattr(import_module("tda_backend.runs.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
