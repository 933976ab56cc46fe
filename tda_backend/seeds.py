"""Seeds hashed from what they are for, so that no two purposes ever share a stream."""

from __future__ import annotations

import hashlib

import numpy as np


def hashed_seed(*parts: str | int | float) -> int:
    """Return a 63-bit seed that is a pure function of ``parts``.

    The parts name a purpose and its coordinates, e.g. ``hashed_seed("subset", study_seed, 17)``. Seeds are never
    derived by adding numbers: ``seed + 1`` of one purpose would be ``seed`` of another.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part!r}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def hashed_rng(*parts: str | int | float) -> np.random.Generator:
    """Return a NumPy generator seeded by :func:`hashed_seed` of ``parts``."""
    return np.random.Generator(np.random.SFC64(hashed_seed(*parts)))
