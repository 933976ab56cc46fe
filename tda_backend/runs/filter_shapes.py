"""How SOURCE and a damped inverse weigh the directions of the parameters, for a figure (SOURCE, arXiv 2405.12186)."""

from __future__ import annotations

import numpy as np
import torch

from tda_backend.spectral.filters import damped_inverse
from tda_backend.trajectory.walk import response_filter


def source_filter_shapes(products: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return SOURCE's filter and the damped inverse with λ = 1/c, both divided by c, at values of cσ.

    F(σ)/c = (1 − e^{−cσ})/(cσ) and (1/c)/(σ + 1/c) = 1/(cσ + 1): in units of 1/c no run has a shape of its own
    (SOURCE, figure 3).

    Args:
        products: cσ > 0, ``[r]``.
    """
    values = torch.from_numpy(np.asarray(products, dtype=np.float64))
    return response_filter(values, 1.0).numpy(), damped_inverse(values, 1.0, 1).numpy()
