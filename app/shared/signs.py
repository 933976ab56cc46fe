"""Colours of what helps and what harms: blue and orange, as everywhere, fading towards nothing between them."""

from __future__ import annotations

import numpy as np

from app.shared.method_style import ORANGE

SCALE = [[0.0, ORANGE], [0.5, "rgba(125,135,149,0.12)"], [1.0, "#2f7fd1"]]


def rooted(values: np.ndarray) -> tuple[np.ndarray, float]:
    """Return signed roots of values, so that small ones show too, and the largest size among them (1 if all are 0)."""
    shown = np.sign(values) * np.sqrt(np.abs(values))
    return shown, float(np.nanmax(np.abs(shown), initial=0.0)) or 1.0
