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
]

ARBITRARY = {"ekfac", "selection-float32/end"}
"""What depends on the machine: dattri's EK-FAC on the signs of eigenvectors, dattri-llm's selection on roundings."""


@pytest.mark.parametrize("name", RECIPES)
def test_a_peer_gives_the_stored_values(name):
    """Relative to the largest value; traker and the float32 run of kronfluence round more."""
    if problems := missing_peers(name):
        pytest.skip("; ".join(problems))
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
