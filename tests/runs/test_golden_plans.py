"""Shipped studies keep their ids, steps, labels and content keys, so that what is computed is never computed again."""

from __future__ import annotations

from decimal import Decimal, localcontext

import numpy as np
import pytest
import torch

from tda_backend.studies.config.study import RegularizationGrid
from tda_backend.studies.study.file import embedded_studies
from tests.runs.golden_plans import TORCH, described, golden, title

pytestmark = pytest.mark.shipped_data


@pytest.mark.parametrize("is_quick", [False, True], ids=["whole", "quick"])
@pytest.mark.parametrize("name", embedded_studies())
def test_a_shipped_study_plans_what_it_did(name: str, is_quick: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "__version__", f"{TORCH}.0")
    found, expected = described(name, is_quick), golden()[title(name, is_quick)]
    assert found["study_id"] == expected["study_id"]
    assert found["configurations"] == expected["configurations"]
    assert found["steps"] == expected["steps"]
    assert found["plan_key"] == expected["plan_key"]


def test_the_grid_is_the_same_on_every_processor():
    """NumPy's own powers are not: where one differs in its last bit, so does the key of all that is evaluated on it."""
    with localcontext(prec=40):
        rounded = [float(Decimal(10) ** Decimal(exponent)) for exponent in np.linspace(-7, 1, 32).tolist()]
    assert RegularizationGrid(low=1e-7, high=10.0, count=32).values == [0.0, *rounded]


def test_the_file_has_every_shipped_study():
    assert set(golden()) == {title(name, small) for name in embedded_studies() for small in (False, True)}
