"""Figures hold what they are given; λ = 0 has a place of its own on the logarithmic axis."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from app.configurations import Configuration
from app.settings import Settings
from app.shared import charts
from app.shared.curves import CurvePoint, IndicatorCurve, LdsCurve, NamedCurve
from app.shared.method_style import FAMILIES, family, method_color, method_dash
from app.views.explorer.layer_chart import layer_figure
from app.views.health.charts import auc_curve_figure
from app.views.methods.best import Best
from app.views.methods.charts import methods_figure
from app.views.selection.rules import chosen_regularization, crossing, rule_name, rules, rules_table, value_at
from app.views.selection.spectrum_chart import spectrum_bins, spectrum_figure
from app.views.selection.tuning import tuned_rules
from app.views.sensitivity import grid as grids
from app.views.sensitivity.heatmaps import heatmap_figure
from app.views.sensitivity.line_chart import Line, line_figure
from tda_backend.interfaces.reading.influence import FilterShape, filter_shape
from tda_backend.interfaces.reading.records.configurations import ConfigurationRow
from tda_backend.interfaces.reading.records.curves import IndicatorPoint, LdsPoint, LdsRow
from tda_backend.interfaces.reading.records.selections import Quantile, Selection, TuningRow
from tda_backend.interfaces.reading.study import open_study
from tda_backend.studies.methods import METHODS

GRID = [0.0, *np.logspace(-7, 1, 9).tolist()]


def indicator(regularizations: list[float], means: list[float]) -> list[IndicatorPoint]:
    """Return ξ with made-up quantiles."""
    return [
        IndicatorPoint(lam, mean, 0.0, 0.1, 0.2, 0.6, 0.9, 0, False)
        for lam, mean in zip(regularizations, means, strict=True)
    ]


@pytest.fixture
def curve() -> list[LdsPoint]:
    means = np.linspace(0.1, 0.5, len(GRID)).tolist()
    return [LdsPoint(lam, mean, mean - 0.03, mean + 0.02, 12, 0, False) for lam, mean in zip(GRID, means, strict=True)]


def test_lds_has_line_band_zero_and_marks(curve):
    quantiles = (Quantile(0.5, 1e-3, 0.3, None),)
    figure = charts.lds_figure(LdsCurve("X", curve, current=1e-4, selected=1e-2, best=1e-1, quantiles=quantiles))
    line = next(trace for trace in figure.data if trace.name == "X")
    np.testing.assert_allclose(line.y, [point.mean for point in curve[1:]])
    zero = next(trace for trace in figure.data if trace.mode == "markers")
    assert zero.x[0] == pytest.approx(1e-7 / 10**1.5)
    assert zero.error_y.array[0] == pytest.approx(0.02)
    band = next(trace for trace in figure.data if trace.fill == "toself")
    assert len(band.x) == 2 * (len(GRID) - 1)
    assert {shape.x0 for shape in figure.layout.shapes} == {1e-3, 1e-4, 1e-2, 1e-1}
    assert figure.layout.xaxis.title.text
    assert figure.layout.yaxis.title.text


def test_indicator_has_its_threshold(curve):
    points = indicator(GRID, [point.mean for point in curve])
    figure = charts.indicator_figure(IndicatorCurve("X", points, threshold=0.4, selected=1e-3))
    assert any(shape.y0 == shape.y1 == 0.4 for shape in figure.layout.shapes)


def test_the_histogram_counts_every_positive_eigenvalue_once():
    values = np.concatenate([np.logspace(-6, 0, 400), np.zeros(10)])
    assert sum(each.count for each in spectrum_bins(values)) == 400
    sigma = np.geomspace(1e-6, 1, 50)
    figure = spectrum_figure(values, 1e-2, FilterShape(sigma, 1 / (sigma + 1e-2), "", ""))
    drawn = next(trace for trace in figure.data if trace.yaxis == "y2")
    np.testing.assert_allclose(drawn.y, (1e-6 + 1e-2) / (np.asarray(drawn.x) + 1e-2))


def configuration(identity: str, method: str, epoch: int, k: int | None, settings: Settings = ()) -> Configuration:
    """Return a configuration with as little as figures need."""
    row = ConfigurationRow(identity, method, method, epoch, k, "{}", identity, True, True, 1)
    return Configuration(**vars(row), settings=settings, choices=settings, method_title=method, variant_title=method)


def cell(row: Configuration, lam: float | None, mean: float) -> grids.Cell:
    """Return the LDS of a configuration at one λ."""
    identity, method, epoch, k = row.configuration_id, row.method, row.training_epoch, row.projection_dim
    point = LdsRow(identity, method, epoch, k, identity, lam is not None, lam, mean, mean - 0.02, mean + 0.02, 12)
    return grids.Cell(row, point)


@pytest.fixture
def table() -> list[grids.Cell]:
    return [
        cell(configuration(f"{epoch}-{k}", "iffim", epoch, k), lam, 0.1 * epoch + (0.05 if k is None else 0) + lam)
        for epoch in (1, 5)
        for k in (64, None)
        for lam in (0.0, 1e-3, 1e-1)
    ]


def test_a_cell_holds_the_best_of_the_third_setting(table):
    grid = grids.grid_of(table, "lam", "k")
    assert grid.x_values == [0.0, 1e-3, 1e-1]
    assert grid.y_values == ["64", "none"]
    assert {each.row.training_epoch for each in grid.cells.values()} == {5}
    fixed = grids.grid_of(table, "lam", "k", fixed={"epoch": 1})
    assert {each.row.training_epoch for each in fixed.cells.values()} == {1}
    assert len(grid.cells) == 6


def test_every_cell_can_be_clicked_and_names_its_setting(table):
    grid = grids.grid_of(table, "k", "epoch")
    figure = heatmap_figure(grid, (0, 1), current=("64", 5))
    squares = figure.data[1]
    assert squares.type == "scatter"
    assert len(squares.customdata) == len(grid.cells) == 4
    for each, (identity, lam) in zip(grid.cells.values(), squares.customdata, strict=True):
        assert (identity, lam) == (each.row.configuration_id, each.regularization)
    assert {trace.name for trace in figure.data[2:]} == {"best", "current"}


def test_any_hyper_parameter_is_an_axis(table):
    cells = [
        cell(
            replace(each.row, settings=(("max_iter", steps), ("curvature", "ggn"))),
            each.regularization,
            each.mean + shift,
        )
        for steps, shift in (("10", 0.0), ("5", 0.1), ("20", -0.1))
        for each in table
    ]
    assert grids.axes_of(cells) == ["lam", "k", "epoch", "set:max_iter"]
    grid = grids.grid_of(cells, "set:max_iter", "k", fixed={"lam": 1e-3, "epoch": 5})
    assert grid.x_values == ["5", "10", "20"]
    assert len(grid.cells) == 6
    assert {each.regularization for each in grid.cells.values()} == {1e-3}
    line = grids.line_of(cells, "set:max_iter", fixed={"lam": 0.0, "epoch": 1, "k": "64"})
    np.testing.assert_allclose([point.mean for point in line], [0.2, 0.1, 0.0], atol=1e-12)
    assert [point.number for point in line] == [5, 10, 20]
    best = grids.line_of(cells, "set:max_iter")
    np.testing.assert_allclose([point.mean for point in best], [0.75, 0.65, 0.55])
    figure = line_figure([Line("CG", "#2f7fd1", "solid", line)], "max iter")
    assert figure.layout.xaxis.type == "log"
    np.testing.assert_allclose(figure.data[0].error_y.array, [point.ci_high - point.mean for point in line])


def test_a_heatmap_without_regularization_keeps_its_cells(table):
    cells = [cell(each.row, None, each.mean) for each in table if each.regularization == 0]
    assert grids.axes_of(cells) == ["k", "epoch"]
    grid = grids.grid_of(cells, "k", "epoch")
    assert len(grid.cells) == 4
    figure = heatmap_figure(grid, (0, 1))
    assert all(lam is None for _, lam in figure.data[1].customdata)


def test_every_method_has_a_family_and_no_two_look_the_same():
    assert {family(name) for name in METHODS} == set(FAMILIES)
    looks = {(method_color(name), method_dash(name)) for name in METHODS}
    assert len(looks) == len(METHODS)


def test_the_methods_figure_has_a_dot_a_cost_and_a_ring():
    def row(identity: str, method: str, title: str) -> Configuration:
        return replace(configuration(identity, method, 1, None), method_title=title)

    rows = [
        Best(row("a", "ekfac", "A"), 0.1, 0.5, 0.4, 0.6, 2.0),
        Best(row("b", "iffim", "B"), 0.1, 0.4, 0.3, 0.5, 0.0),
        Best(row("c", "random", "C"), seconds=1.0),
    ]
    figure = methods_figure(rows, "b")
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


@pytest.mark.parametrize("method", ["iffim", "if-lissa", "ekfac"])
def test_the_drawn_filter_is_the_engine_s(zoo, method):
    study = open_study("zoo", zoo.catalogue)
    for row in study.configurations().query("method == @method").itertuples():
        shape = filter_shape(study, row.configuration_id, 0.1)
        phi = study.source(row.configuration_id)[0].filter
        np.testing.assert_array_equal(shape.weights, phi.weights(torch.from_numpy(shape.sigma), 0.1, study.num_train))
        values = study.eigenvalues(row.configuration_id)
        assert shape.sigma[-1] == pytest.approx(values.max())
        assert shape.sigma[0] >= values.max() * 1e-14


def test_where_no_filter_can_be_drawn_there_is_a_reason(zoo):
    study = open_study("zoo", zoo.catalogue)
    lissa = study.configuration_id("if-lissa", scaling=20.0, depth=5)
    diverging = filter_shape(study, lissa, 41.0)
    assert not len(diverging.sigma)
    assert "diverges" in diverging.remark
    solver = filter_shape(study, study.configuration_id("if-cg", max_iter=2), 0.1)
    assert not len(solver.sigma)
    assert "query" in solver.remark
    assert filter_shape(study, study.configuration_id("random"), 0.1) is None


def test_flatness_is_the_share_near_the_best():
    assert grids.flatness([1.0, 0.96, 0.94, 0.2]) == (0.5, 4)
    assert np.isnan(grids.flatness([-1.0])[0])


def test_the_last_upward_crossing_is_taken():
    grid = [0, 1e-4, 1e-3, 1e-2, 1e-1]
    points = indicator(grid, [0.9, 0.2, 0.6, 0.4, 0.6])
    assert crossing(points, 0.5) == pytest.approx(10**-1.5)
    assert crossing(indicator(grid, [0.1] * 5), 0.5) is None
    assert crossing(indicator(grid, [0.8] * 5), 0.5) == 1e-4
    assert value_at(points, 10**-2.5) == pytest.approx(0.5)
    assert value_at(points, 0.0) == 0.9


@pytest.fixture
def selection() -> Selection:
    quantiles = (Quantile(0.9, 1e-1, 0.4, None),)
    return Selection("a", 0.5, 1e-2, None, 0.35, 10.0, 0.5, None, 0.1, [], quantiles)


def test_regret_is_against_the_best_and_never_negative(curve, selection):
    entries = {entry.rule: entry for entry in rules(selection, curve, 1e-2, 0.5)}
    assert entries["λ* where ξ̄ = 0.5"].regret == pytest.approx(0.15)
    assert entries["90 % quantile of the eigenvalues"].regret == pytest.approx(0.1)
    assert entries["λ = 0 (pseudo-inverse)"].regret == pytest.approx(0.4)
    assert all(entry.regret >= 0 for entry in entries.values())
    table = rules_table(list(entries.values()), "X").set_index("rule")
    assert table.loc["λ* where ξ̄ = 0.5", "regret"] == 0.15


def test_a_rule_between_grid_values_may_be_the_best(curve, selection):
    better = replace(selection, quantiles=(Quantile(0.9, 11.8, 0.6, None),))
    found = rules(better, curve, 1e-2, 0.5)
    entries = {entry.rule: entry for entry in found}
    assert entries["90 % quantile of the eigenvalues"].regret == 0
    table = rules_table(found, "X").set_index("rule")
    assert table.loc["best of the grid and these rules (needs retraining)", "λ"] == "11.8"


def test_a_lambda_star_far_below_the_grid_does_not_stretch_the_axis(curve):
    far = replace(curve[1], regularization=1e-12, is_selected=True)
    plain = charts.lds_figure(LdsCurve("IFFIM", curve))
    figure = charts.lds_figure(LdsCurve("IFFIM", [*curve, far], selected=1e-12))
    assert figure.layout.xaxis.range == plain.layout.xaxis.range
    assert "1e-12" in " ".join(note.text for note in figure.layout.annotations)


def test_axes_show_what_was_not_computed(table):
    partial = [each for each in table if each.row.training_epoch == 5 or each.row.projection_dim is not None]
    grid = grids.grid_of(partial, "lam", "k", fixed={"epoch": 1})
    assert grid.y_values == ["64", "none"]
    assert {y for _, y in grid.cells} == {"64"}


def test_lambda_zero_is_nearest_to_itself_alone():
    grid = [0.0, 1e-7, 1e-3]
    assert grids.nearest_regularization(grid, 0.0) == 0.0
    assert grids.nearest_regularization(grid, 1e-11) == 1e-7
    assert grids.nearest_regularization(grid, 5e-4) == 1e-3


def test_the_warning_belongs_to_the_threshold(selection):
    record = replace(selection, lambda_selected=1e-9, warnings=["low end"])
    rising = indicator([0, 1e-4, 1e-2], [0.5, 0.55, 0.7])
    assert chosen_regularization(record, rising, 0.5) == (1e-9, ["low end"])
    assert chosen_regularization(record, rising, 0.6)[1] == []
    assert "low end" in chosen_regularization(record, rising, 0.4)[1][0]
    assert "stays below" in chosen_regularization(record, rising, 0.75)[1][0]


def test_rules_have_names_and_tuning_is_averaged():
    assert rule_name("xi0.5 per layer") == "one λ per layer where ξ̄ = 0.5"
    assert rule_name("xi0.4") == "λ* where ξ̄ = 0.4"
    assert rule_name("q0.1") == "10 % quantile of the eigenvalues"
    rows = [
        TuningRow("training_epoch", "last", "50", 0.1, 0.3),
        TuningRow("training_epoch", "last", "50", 0.3, 0.1),
        TuningRow("training_epoch", "progress", "5", 0.4, 0.0),
    ]
    table: pd.DataFrame = tuned_rules(rows).set_index("rule")
    assert table.loc["last epoch (the papers')", "mean regret"] == 0.2
    assert table.loc["last epoch (the papers')", "groups"] == 2
    assert table.loc["first epoch with 90 % of the way down to the lowest validation loss", "chooses"] == "5"


def test_like_is_compared_with_like():
    """TRAK unprojected was computed at epoch 20 alone: there the best over epochs is another question."""
    lds = {(5, 512): 0.31, (20, 512): 0.25, (5, 2048): 0.29, (20, 2048): 0.26, (20, None): 0.245}
    cells = [cell(configuration(f"{e}-{k}", "trak", e, k), 0.1, mean) for (e, k), mean in lds.items()]
    found = grids.comparable(cells, ["k"])
    assert [point.mean for point in grids.line_of(found.cells, "k")] == [0.25, 0.26, 0.245]
    assert {point.words for point in grids.line_of(found.cells, "k")} == {"λ = 0.1, epoch 20"}
    assert grids.like_text("TRAK", found, grids.BEST) == (
        "TRAK counts at epoch 20 alone, which every value has; epoch 5: not computed everywhere."
    )
    every = grids.line_of(cells, "k")
    assert [(point.mean, point.words) for point in every] == [
        (0.31, "λ = 0.1, epoch 5"),
        (0.29, "λ = 0.1, epoch 5"),
        (0.245, "λ = 0.1, epoch 20"),
    ]
    assert "not like with like" in grids.like_text("TRAK", found, grids.ALL)
    assert not grids.like_text("TRAK", found, grids.PRESENT)


def test_grids_that_meet_in_part_are_compared_where_they_meet():
    """Relative grids: epoch 5 lies a decade below epoch 20, where k = 64."""
    grids_of = {(5, 64): (0.01, 0.1), (20, 64): (0.1, 1.0), (5, None): (0.1, 1.0), (20, None): (0.1, 1.0)}
    cells = [
        cell(configuration(f"{e}-{k}", "iffim", e, k), lam, 0.1) for (e, k), lams in grids_of.items() for lam in lams
    ]
    found = grids.comparable(cells, ["lam", "k"])
    kept = {(each.value("epoch"), each.value("k"), each.regularization) for each in found.cells}
    assert kept == {(e, "64", 0.1) for e in (5, 20)} | {(e, "none", lam) for e in (5, 20) for lam in (0.1, 1.0)}
    assert grids.like_text("IFFIM", found, grids.BEST) == (
        "IFFIM: some λ are left out, which not all other settings have."
    )
    assert "not like with like" in grids.like_text("IFFIM", found, grids.ALL)
    assert not grids.comparable(cells, ["k"]).lacks_lam


def test_where_everything_was_computed_nothing_is_left_out(table):
    found = grids.comparable(table, ["lam", "k"])
    assert found.cells == table
    assert not grids.like_text("IFFIM", found, grids.BEST)
    assert grids.comparable(table, ["lam", "epoch"]).kept == {"k": ["64", "none"]}


def test_a_lambda_star_below_the_grid_is_marked_at_the_low_end():
    points = [CurvePoint(lam, 0.9, 0.8, 1.0) for lam in GRID] + [CurvePoint(2.2e-10, 0.9, 0.8, 1.0, True)]
    figure = auc_curve_figure(NamedCurve("X", "#2f7fd1", "solid", points), "λ")
    (line,), (label,) = figure.layout.shapes, figure.layout.annotations
    low, high = figure.layout.xaxis.range
    assert low < np.log10(line.x0) < np.log10(GRID[1]) < high
    assert label.x == pytest.approx(np.log10(line.x0))
    assert label.text == "← λ* = 2.2e-10"
