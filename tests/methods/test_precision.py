"""What gradients in bfloat16 do to scores over λ: figures of docs/interface.md."""

from __future__ import annotations

from pathlib import Path

import pytest

from tda_backend.models.precision import BF16, Precision
from tests.methods.matrix import Answer, Asked, answer


@pytest.mark.parametrize(
    ("value", "low", "high"), [(1.0, 0.001, 0.004), (1e-3, 0.004, 0.016), (0.0, 0.4, 2.0)], ids=["1", "0.001", "0"]
)
def test_the_smaller_lambda_is_the_more_rounding_counts(value: float, low: float, high: float, tmp_path: Path):
    """At λ = 0 directions count in which there is nothing but rounding: 24 examples, 27 parameters."""

    def asked(name: str, precision: Precision) -> Answer:
        return answer(tmp_path / name, "iffim", {}, Asked(task="single", precision=precision))

    found, exact = asked("half", BF16).scores(value), asked("full", "float32").scores(value)
    assert low < float((found - exact).norm() / exact.norm()) < high
