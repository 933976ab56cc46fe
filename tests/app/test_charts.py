"""Figures hold what they are given; λ = 0 has a place of its own on the logarithmic axis."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from app import charts, heatmaps
from app.filters import filter_shape
from app.method_charts import layer_figure, line_figure, methods_figure
from app.method_style import FAMILIES, method_color, method_dash
from app.selection_rules import chosen_regularization, crossing, rules, value_at
from tda_backend.methods import METHODS
from tda_backend.spectral.solver_filters import LissaMean

GRID = [0.0, *np.logspace(-7, 1, 9)]


@pytest.fixture
def curve() -> pd.DataFrame:
    mean = np.linspace(0.1, 0.5, len(GRID))
    return pd.DataFrame({"regularization": GRID, "mean": mean, "ci_low": mean - 0.03, "ci_high": mean + 0.02})


def test_lds_has_line_band_zero_and_marks(curve):
    quantiles = {"0.5": {"lambda": 1e-3, "lds": 0.3}}
    figure = charts.lds_figure(curve, name="X", current=1e-4, selected=1e-2, best=1e-1, quantiles=quantiles)
    line = next(trace for trace in figure.data if trace.name == "X")
    np.testing.assert_allclose(line.y, curve["mean"][1:])
    zero = next(trace for trace in figure.data if trace.mode == "markers")
    assert zero.x[0] == pytest.approx(1e-7 / 10**1.5)
    assert zero.error_y.array[0] == pytest.approx(0.02)
    band = next(trace for trace in figure.data if trace.fill == "toself")
    assert len(band.x) == 2 * (len(GRID) - 1)
    assert {shape.x0 for shape in figure.layout.shapes} == {1e-3, 1e-4, 1e-2, 1e-1}
    assert figure.layout.xaxis.title.text
    assert figure.layout.yaxis.title.text


def test_indicator_has_its_threshold(curve):
    frame = curve.assign(q05=0.0, q25=0.1, q50=0.2, q75=0.6, q95=0.9)
    figure = charts.indicator_figure(frame, name="X", threshold=0.4, selected=1e-3)
    assert any(shape.y0 == shape.y1 == 0.4 for shape in figure.layout.shapes)


def test_the_histogram_counts_every_positive_eigenvalue_once():
    values = np.concatenate([np.logspace(-6, 0, 400), np.zeros(10)])
    assert charts.spectrum_table(values)["count"].sum() == 400
    shape = filter_shape("damped_inverse", {}, values, 1e-2)
    figure = charts.spectrum_figure(values, 1e-2, shape)
    weights = next(trace for trace in figure.data if trace.yaxis == "y2")
    np.testing.assert_allclose(weights.y, 1e-2 / (np.asarray(weights.x) + 1e-2))


@pytest.fixture
def table() -> pd.DataFrame:
    rows = []
    for epoch in (1, 5):
        for k in (64, None):
            for lam in (0.0, 1e-3, 1e-1):
                mean = 0.1 * epoch + (0.05 if k is None else 0) + lam
                rows.append((f"{epoch}-{k}", epoch, k, lam, mean, mean - 0.02, mean + 0.02, 12))
    columns = ["configuration_id", "training_epoch", "projection_dim", "regularization", "mean", "ci_low", "ci_high",
               "num_subsets"]  # fmt: skip
    return heatmaps.with_axes(pd.DataFrame(rows, columns=columns).astype({"projection_dim": "Int64"}))


def test_a_cell_holds_the_best_of_the_third_setting(table):
    grid = heatmaps.grid_of(table, "lam", "k")
    assert grid.x_values == [0.0, 1e-3, 1e-1]
    assert grid.y_values == ["64", "none"]
    assert set(grid.cells["training_epoch"]) == {5}
    fixed = heatmaps.grid_of(table, "lam", "k", fixed={"epoch": 1})
    assert set(fixed.cells["training_epoch"]) == {1}
    assert len(grid.cells) == 6


def test_every_cell_can_be_clicked_and_names_its_setting(table):
    grid = heatmaps.grid_of(table, "k", "epoch")
    figure = heatmaps.heatmap_figure(grid, low=0, high=1, current=("64", 5))
    squares = figure.data[1]
    assert squares.type == "scatter"
    assert len(squares.customdata) == len(grid.cells) == 4
    for cell, (identity, lam) in zip(grid.cells.itertuples(), squares.customdata, strict=True):
        assert (identity, lam) == (cell.configuration_id, cell.regularization)
    assert {trace.name for trace in figure.data[2:]} == {"best", "current"}


def test_any_hyper_parameter_is_an_axis(table):
    both = pd.concat([
        table.assign(settings=[{"max_iter": steps, "curvature": "ggn"}] * len(table), mean=table["mean"] + shift)
        for steps, shift in (("10", 0.0), ("5", 0.1), ("20", -0.1))
    ])  # fmt: skip
    frame = heatmaps.with_axes(both.reset_index(drop=True))
    assert heatmaps.axes_of(frame) == ["lam", "k", "epoch", "set:max_iter"]
    grid = heatmaps.grid_of(frame, "set:max_iter", "k", fixed={"lam": 1e-3, "epoch": 5})
    assert grid.x_values == ["5", "10", "20"]
    assert len(grid.cells) == 6
    assert set(grid.cells["regularization"]) == {1e-3}
    line = heatmaps.line_of(frame, "set:max_iter", fixed={"lam": 0.0, "epoch": 1, "k": "64"})
    np.testing.assert_allclose(line["mean"], [0.2, 0.1, 0.0], atol=1e-12)
    assert line["number"].tolist() == [5, 10, 20]
    best = heatmaps.line_of(frame, "set:max_iter")
    np.testing.assert_allclose(best["mean"], [0.75, 0.65, 0.55])
    figure = line_figure([("CG", "#2f7fd1", "solid", line)], "max iter", logarithmic=True)
    np.testing.assert_allclose(figure.data[0].error_y.array, line["ci_high"] - line["mean"])


def test_a_heatmap_without_regularization_keeps_its_cells(table):
    frame = heatmaps.with_axes(table[table["regularization"] == 0].assign(regularization=np.nan))
    assert heatmaps.axes_of(frame) == ["k", "epoch"]
    grid = heatmaps.grid_of(frame, "k", "epoch")
    assert len(grid.cells) == 4
    figure = heatmaps.heatmap_figure(grid, low=0, high=1)
    assert all(lam is None for _, lam in figure.data[1].customdata)


def test_every_method_has_a_family_and_no_two_look_the_same():
    named = [name for _, members in FAMILIES.values() for name in members]
    assert sorted(named) == sorted(METHODS)
    looks = {(method_color(name), method_dash(name)) for name in METHODS}
    assert len(looks) == len(METHODS)


def test_the_methods_figure_has_a_dot_a_cost_and_a_ring():
    frame = pd.DataFrame(
        {"configuration_id": [*"abc"], "method": ["ekfac", "iffim", "random"], "method_title": ["A", "B", "C"],
         "lds": [0.5, 0.4, np.nan], "low": [0.4, 0.3, np.nan], "high": [0.6, 0.5, np.nan], "seconds": [2.0, 0.0, 1.0],
         "details": ""}
    )  # fmt: skip
    figure = methods_figure(frame, "b")
    dots = [trace for trace in figure.data if trace.customdata is not None]
    assert len(dots) == 2 + 3  # a method without LDS has a cost alone
    assert [list(trace.x) for trace in dots if trace.xaxis == "x"] == [[0.4], [0.5]]
    ringed = {trace.customdata[0][0] for trace in dots if trace.marker.line.width[0]}
    assert ringed == {"b"}
    assert min(trace.x[0] for trace in dots if trace.xaxis == "x2") > 0  # a logarithmic axis
    assert list(figure.layout.yaxis.categoryarray) == ["C", "B", "A"]


def test_layers_add_up_in_one_bar():
    figure = layer_figure(["first", "second"], {"a": np.array([1.0, -2.0]), "b": np.array([0.5, 1.0])})
    assert figure.layout.barmode == "relative"
    assert [trace.name for trace in figure.data] == ["a", "b"]


def test_the_drawn_filter_is_the_engine_s():
    values = np.geomspace(1e-4, 5, 40)
    shape = filter_shape("lissa_mean", {"scaling": "8", "depth": "30"}, values, 0.1)
    weights = LissaMean(8.0, 30).weights(torch.from_numpy(shape["sigma"].to_numpy(copy=True)), 0.1, 10).numpy()
    np.testing.assert_allclose(shape["relative"], weights / weights.max(), rtol=1e-9)
    assert not len(filter_shape("lissa_mean", {"scaling": "2", "depth": "30"}, values, 0.1))
    assert not len(filter_shape("krylov", {}, values, 0.1))


def test_flatness_is_the_share_near_the_best():
    assert heatmaps.flatness(pd.DataFrame({"mean": [1.0, 0.96, 0.94, 0.2]})) == (0.5, 4)
    assert np.isnan(heatmaps.flatness(pd.DataFrame({"mean": [-1.0]}))[0])


def test_the_last_upward_crossing_is_taken():
    frame = pd.DataFrame({"regularization": [0, 1e-4, 1e-3, 1e-2, 1e-1], "mean": [0.9, 0.2, 0.6, 0.4, 0.6]})
    assert crossing(frame, 0.5) == pytest.approx(10**-1.5)
    assert crossing(frame.assign(mean=0.1), 0.5) is None
    assert crossing(frame.assign(mean=0.8), 0.5) == 1e-4
    assert value_at(frame, 10**-2.5) == pytest.approx(0.5)
    assert value_at(frame, 0.0) == 0.9


def test_regret_is_against_the_best_and_never_negative(curve):
    record = {"threshold": 0.5, "lambda_selected": 1e-2, "lds_selected": 0.35, "lambda_best": 10.0, "lds_best": 0.5,
              "lds_at_zero": 0.1, "quantiles": {"0.9": {"lambda": 1e-1, "lds": 0.4}}}  # fmt: skip
    entries = {entry["rule"]: entry for entry in rules(record, curve, 1e-2, 0.5)}
    assert entries["λ* where ξ̄ = 0.5"]["regret"] == 0.15
    assert entries["90 % quantile of the eigenvalues"]["regret"] == 0.1
    assert entries["λ = 0 (pseudo-inverse)"]["regret"] == 0.4
    assert all(entry["regret"] >= 0 for entry in entries.values())


def test_a_rule_between_grid_values_may_be_the_best(curve):
    record = {"threshold": 0.5, "lambda_selected": 1e-2, "lds_selected": 0.35, "lambda_best": 10.0, "lds_best": 0.5,
              "lds_at_zero": 0.1, "quantiles": {"0.9": {"lambda": 11.8, "lds": 0.6}}}  # fmt: skip
    entries = {entry["rule"]: entry for entry in rules(record, curve, 1e-2, 0.5)}
    assert entries["90 % quantile of the eigenvalues"]["regret"] == 0
    assert entries["best of the grid and these rules (needs retraining)"]["λ"] == "11.8"


def test_a_lambda_star_far_below_the_grid_does_not_stretch_the_axis(curve):
    far = curve.iloc[[1]].assign(regularization=1e-12, is_selected=True)
    frame = pd.concat([curve.assign(is_selected=False), far])
    plain = charts.lds_figure(curve, name="IFFIM")
    figure = charts.lds_figure(frame, name="IFFIM", selected=1e-12)
    assert figure.layout.xaxis.range == plain.layout.xaxis.range
    assert "1e-12" in " ".join(note.text for note in figure.layout.annotations)


def test_axes_show_what_was_not_computed(table):
    partial = table[(table["training_epoch"] == 5) | table["projection_dim"].notna()]
    grid = heatmaps.grid_of(partial, "lam", "k", fixed={"epoch": 1})
    assert grid.y_values == ["64", "none"]
    assert set(grid.cells["y"]) == {"64"}


def test_lambda_zero_is_nearest_to_itself_alone():
    grid = [0.0, 1e-7, 1e-3]
    assert heatmaps.nearest_regularization(grid, 0.0) == 0.0
    assert heatmaps.nearest_regularization(grid, 1e-11) == 1e-7
    assert heatmaps.nearest_regularization(grid, 5e-4) == 1e-3


def test_the_warning_belongs_to_the_threshold():
    record = {"threshold": 0.5, "lambda_selected": 1e-9, "warnings": ["low end"]}
    rising = pd.DataFrame({"regularization": [0, 1e-4, 1e-2], "mean": [0.5, 0.55, 0.7]})
    assert chosen_regularization(record, rising, 0.5) == (1e-9, ["low end"])
    assert chosen_regularization(record, rising, 0.6)[1] == []
    assert "low end" in chosen_regularization(record, rising, 0.4)[1][0]
    assert "stays below" in chosen_regularization(record, rising, 0.75)[1][0]


def test_rules_have_names_and_tuning_is_averaged():
    import pandas as pd

    from app.components.tuning import tuned_rules
    from app.selection_rules import rule_name

    assert rule_name("xi0.5 per layer") == "one λ per layer where ξ̄ = 0.5"
    assert rule_name("xi0.4") == "λ* where ξ̄ = 0.4"
    assert rule_name("q0.1") == "10 % quantile of the eigenvalues"
    frame = pd.DataFrame(
        {
            "what": ["training_epoch"] * 3, "rule": ["last", "last", "progress"], "chosen": ["50", "50", "5"],
            "lds": [0.1, 0.3, 0.4], "regret": [0.3, 0.1, 0.0],
        }
    )  # fmt: skip
    table = tuned_rules(frame).set_index("rule")
    assert table.loc["last epoch (the papers')", "mean regret"] == 0.2
    assert table.loc["last epoch (the papers')", "groups"] == 2
    assert table.loc["first epoch with 90 % of the way down to the lowest validation loss", "chooses"] == "5"
