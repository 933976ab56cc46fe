"""What a study's numbers leave out is said: rows, parameters, subsets that repeat, draws of projections, λ outside."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tda_backend.interfaces.reading.remarks import _log_choices, beyond_grid, remarks
from tda_backend.interfaces.reading.study import open_study
from tda_backend.models.training.retraining.subsets import subset_masks
from tda_backend.studies.store.workspace import Workspace


def study(masks: np.ndarray | None = None, draws: int | None = None, **more: Any) -> Any:
    """Return a study with two configurations, one of them projected, one that leaves parameters out."""
    rows = [
        ("a", "ekfac", "EK-FAC", 5, None, json.dumps({"untracked": "leave-out"})),
        ("b", "trak", "TRAK", 5, 512, "{}"),
    ]
    names = ("configuration_id", "method", "title", "training_epoch", "projection_dim", "parameters")
    frame = pd.DataFrame([dict(zip(names, row, strict=True)) for row in rows])
    frame = frame.assign(label="x", has_regularization=True, has_lds=True, num_seeds=1)
    frame["projection_dim"] = frame["projection_dim"].astype("Int64")
    info = {"num_subsets": 0 if masks is None else len(masks), "num_rows": 18_000, "num_parameters": 70_000}
    info["untracked"] = [("norm.weight", 100), ("norm.bias", 84)]
    return SimpleNamespace(
        configurations=lambda: frame,
        info={**info, **more},
        alphas=[0.5],
        resolved=SimpleNamespace(projection=SimpleNamespace(draws=draws), precision=None),
        num_train=5000 if masks is None else masks.shape[1],
        has_retrained=lambda alpha: masks is not None,
        subset_masks=lambda alpha: masks,
        source_rows=lambda identity: [],
    )


def test_rows_parameters_and_the_projection_s_draw_are_said():
    assert remarks(study()) == [
        "5\u202f000 of the task's 18\u202f000 training rows take part.",
        "EK-FAC leaves out 184 of 70\u202f000 parameters: norm.weight, norm.bias.",
        "Projected answers (k = 512) rest on one draw of the projection: their intervals leave out other draws "
        "(projection.draws has them in).",
    ]
    assert "mean over 4 draws" in remarks(study(draws=4))[-1]


def test_nothing_is_said_where_nothing_is_left_out():
    whole = study(num_rows=5000, untracked=[])
    whole.configurations = lambda: study().configurations().head(1)
    assert not remarks(whole)


def test_subsets_that_repeat_are_counted():
    masks = subset_masks(6, 0.5, 50, seed=0)
    different = len({tuple(row) for row in masks.tolist()})
    assert different <= 20  # six over three
    found = [each for each in remarks(study(masks)) if "subsets" in each]
    assert found[0].startswith(f"Only {different} of the 50 retrained subsets at α = 0.5 differ")
    many = subset_masks(60, 0.5, 50, seed=0)
    assert not [each for each in remarks(study(many)) if "subsets" in each]


def test_the_number_of_subsets_is_compared_by_its_logarithm():
    assert _log_choices(40, 13) == pytest.approx(np.log(float(math.comb(40, 13))))
    assert _log_choices(10**9, 5 * 10**8) == pytest.approx(10**9 * np.log(2), rel=1e-6)


@pytest.mark.parametrize(("lam", "outside"), [(None, False), (0.0, False), (1e-3, False), (1e-9, True), (50.0, True)])
def test_a_lambda_outside_the_grid_is_said(computed: Workspace, lam: float | None, outside: bool):
    study = open_study("tiny", computed)
    text = beyond_grid(study, study.configuration_id("iffim", 8, 4), lam)
    assert bool(text) is outside
    assert not outside or f"λ = {lam:g}" in text


def test_the_selected_lambda_has_its_lds_wherever_it_lies():
    frame = pd.DataFrame({"regularization": [0.1, 1.0, 7.0], "is_selected": [False, False, True]})
    study: Any = SimpleNamespace(indicator_curve=lambda identity: frame, curve=lambda identity: frame)
    assert not beyond_grid(study, "a", 7.0)
    assert "λ = 6" in beyond_grid(study, "a", 6.0)


def test_show_and_select_say_it(computed: Workspace, cli):
    for verb in ("show", "select"):
        code, out, _ = cli(verb, "tiny", "--db", computed.catalogue)
        assert code == 0
        assert "Note: 60 of the task's 90 training rows take part." in out
        assert "Note: Projected answers (k = 8) rest on one draw" in out
    code, out, _ = cli("show", "tiny", "--db", computed.catalogue, "--json")
    assert json.loads(out)["remarks"] == remarks(open_study("tiny", computed))
