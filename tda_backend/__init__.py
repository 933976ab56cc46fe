"""Training data attribution: compute once, then turn λ. ``open_study`` is the way in for scripts and notebooks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tda_backend.version import __version__

if TYPE_CHECKING:
    from tda_backend.interfaces.reading.study import Study, list_studies, open_study

__all__ = ["Study", "__version__", "list_studies", "open_study"]
_LAZY = ("Study", "list_studies", "open_study")


def __getattr__(name: str) -> Any:
    # Lazy: importing the package must not import torch, which takes seconds.
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module("tda_backend.interfaces.reading.study"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
