"""The quick look for NaN and infinities says what a look at every entry says."""

from __future__ import annotations

import pytest
import torch

from tda_backend.finite import all_finite

INF, NAN, LARGE = float("inf"), float("nan"), 3e38


@pytest.mark.parametrize(
    "values",
    [[], [1.0, -2.0], [1.0, NAN], [INF, 1.0], [-INF, INF], [LARGE, LARGE], [LARGE, LARGE, INF], [LARGE, -LARGE, NAN]],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_it_agrees_with_a_look_at_every_entry(values: list[float], dtype: torch.dtype):
    tensor = torch.tensor(values, dtype=dtype)
    assert all_finite(tensor) is bool(torch.isfinite(tensor).all())


def test_finite_entries_may_overflow_their_sum():
    tensor = torch.tensor([LARGE, LARGE])
    assert torch.isinf(tensor.sum())
    assert all_finite(tensor)
