"""Methods answer the same where memory runs out in their steps, each with less than its usual blocks take."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from tda_backend.studies.steps.table import KINDS
from tests.device.limited import Limited
from tests.device.standin import NAME as STAND_IN
from tests.device.standin import watching
from tests.methods.matrix import ROWS, Asked, answer

SHARE = 0.95
"""Of what a step takes with its usual blocks."""
HALVED = {
    "tracin": {"train", "features", "scores"},
    "if-arnoldi": {"train", "curvature"},
    "ekfac": {"train", "kronecker"},
    "logra": {"train", "curvature"},
    "source": {"train", "scores"},
}
"""Method → the kinds of its steps that take less with smaller blocks."""


@pytest.mark.parametrize("name", HALVED)
def test_scores_do_not_depend_on_where_memory_ran_out(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert HALVED[name] <= set(KINDS)

    def ask(limited: Limited, folder: str) -> list[torch.Tensor]:
        monkeypatch.setattr("tests.methods.matrix.compute", limited)
        found = answer(tmp_path / folder, name, ROWS[name].settings, Asked(device=STAND_IN))
        return [found.scores(value) for value in ROWS[name].values]

    with watching():
        usual = Limited()
        expected = ask(usual, "usual")
        short = Limited(lambda step: SHARE * usual.peaks[step.label] if step.NAME in HALVED[name] else math.inf)
        found = ask(short, "short")
    for scores, right in zip(found, expected, strict=True):
        assert float((scores - right).abs().max()) <= 1e-12 * float(right.abs().max())
    refused = {label.split()[0] for label, count in short.refused.items() if count}
    assert len(refused) == len(HALVED[name]), short.refused
