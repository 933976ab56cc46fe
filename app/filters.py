"""The shape of each method's filter over the eigenvalues, for drawing. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

FORMULAS = {
    "damped_inverse": "λ·φ(σ) = λ/(σ+λ)",
    "lissa_mean": "φ(σ) = [1−(1−(σ+λ)/s)^(T+1)]/(σ+λ), relative to its largest",
    "krylov": "a polynomial of its own for every query",
}
NUM_POINTS = 160


def filter_shape(name: str, parameters: Mapping[str, Any], eigenvalues: np.ndarray, lam: float) -> pd.DataFrame:
    """Return the filter relative to its largest value: sigma, relative; no rows where there is nothing to draw.

    Args:
        name: Of the filter.
        parameters: Of the filter, beside λ.
        eigenvalues: Whose range is covered.
        lam: λ.
    """
    positive = eigenvalues[eigenvalues > eigenvalues.max() * 1e-14] if len(eigenvalues) else eigenvalues
    empty = pd.DataFrame({"sigma": [], "relative": []})
    if not len(positive):
        return empty
    sigma = np.geomspace(positive.min(), positive.max(), NUM_POINTS)
    if name == "damped_inverse" and lam > 0:
        return pd.DataFrame({"sigma": sigma, "relative": lam / (sigma + lam)})
    if name == "lissa_mean":
        scaling, count = float(parameters["scaling"]), int(parameters["depth"]) + 1
        step = (sigma + lam) / scaling
        if step.max() >= 2:
            return empty
        low = -np.expm1(count * np.log1p(-np.minimum(step, 1 - 1e-16)))
        high = 1 - (-1.0) ** count * np.maximum(step - 1, 0) ** count
        values = np.where(step <= 1, low, high) / (sigma + lam)
        return pd.DataFrame({"sigma": sigma, "relative": values / values.max()})
    return empty
