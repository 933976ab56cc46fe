"""The peers themselves, where they are installed: what they say today is what was stored.

Install with ``pip install -e '.[peers]'``; without them (or with other versions) every test here is skipped.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.peers.cases import load_golden
from tests.peers.recipe import RECIPES, missing_peers

pytestmark = [
    pytest.mark.shipped_data,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(bool(missing_peers()), reason="; ".join(missing_peers())),
]

ARBITRARY = {"ekfac"}
"""dattri's EK-FAC depends on the signs of eigenvectors, and so on the machine."""


@pytest.mark.parametrize("name", RECIPES)
def test_a_peer_gives_the_stored_values(name):
    """Relative to the largest value; traker and the float32 run of kronfluence round more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = RECIPES[name]()
    finally:
        torch.set_num_threads(before)
    stored = load_golden(name)
    assert set(found) <= set(stored)
    for key in sorted(set(found) - ARBITRARY):
        expected = stored[key].astype(np.float64)
        tolerance = 1e-2 if "float32" in key else 1e-4
        error = np.abs(found[key] - expected).max() / max(np.abs(expected).max(), 1e-300)
        assert error <= tolerance, f"{name}: {key} differs by {error:.3g}"
