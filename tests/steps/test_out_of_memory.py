"""Steps go on where memory runs out: with less than they take, on the stand-in, results stay what they were."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tda_backend.studies.pipeline.step import Step
from tda_backend.studies.runs.recompute import recompute
from tests.device.limited import Limited
from tests.device.standin import NAME as STAND_IN
from tests.device.standin import watching
from tests.steps.conftest import Everything

SHARE = 0.9
"""Of what a step takes with its usual blocks."""
KINDS = [
    "train",
    "features",
    "curvature",
    "kronecker",
    "evaluate",
    "loo-choice",
    "trajectory-influence",
    "trajectory-truth",
    "trajectory-proxy",
]
"""Kinds of step that take less with smaller blocks also where there are 40 examples."""


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_goes_on_with_smaller_blocks(kind: str, everything: Everything, monkeypatch: pytest.MonkeyPatch):
    def compute_again(limited: Limited, steps: list[Step]) -> None:
        monkeypatch.setattr("tda_backend.studies.runs.recompute.compute", limited)
        with watching():
            found = list(recompute(replace(everything.plan, device=STAND_IN), everything.store, steps))
        assert [(each.label, each.where, each.deviation) for each in found if not each.agrees] == []

    usual = Limited()
    compute_again(usual, everything.of(kind))
    label = max(usual.peaks, key=lambda label: usual.peaks[label])
    short = Limited(lambda _: SHARE * usual.peaks[label])
    compute_again(short, [step for step in everything.of(kind) if step.label == label])
    assert short.refused[label]
    assert short.left[label] < 0.1 * usual.peaks[label]
    assert len(short.remarks[label]) == 1
    assert short.remarks[label][0].startswith("out of memory")
