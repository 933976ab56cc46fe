"""The histogram of eigenvalues with the method's filter over it. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from app.formats import regularization_text
from app.shared.charts import Marker, add_marker, finish, transparent
from app.shared.method_style import BLUE, ORANGE
from tda_backend.interfaces.reading.influence import FilterShape

ROUNDING = 1e-14  # eigenvalues below this share of the largest are rounding of the eigendecomposition


@dataclass(frozen=True)
class Bin:
    """How many eigenvalues lie between two values."""

    low: float
    high: float
    count: int

    @property
    def center(self) -> float:
        """Middle on a logarithmic axis."""
        return float(np.sqrt(self.low * self.high))


def spectrum_bins(eigenvalues: np.ndarray, num_bins: int = 60) -> list[Bin]:
    """Return the histogram of log10 of the positive eigenvalues."""
    positive = eigenvalues[eigenvalues > 0]
    shown = positive[positive > positive.max(initial=0.0) * ROUNDING]
    edges = np.histogram_bin_edges(np.log10(shown) if len(shown) else np.zeros(1), num_bins)
    counts, _ = np.histogram(np.log10(shown), edges)
    values = (10.0**edges).tolist()
    return [Bin(*row) for row in zip(values, values[1:], counts.tolist(), strict=False)]


def spectrum_figure(
    eigenvalues: np.ndarray, regularization: float, shape: FilterShape | None, color: str = BLUE, height: int = 300
) -> go.Figure:
    """Return the histogram of eigenvalues with the method's filter over it.

    Args:
        eigenvalues: ``[R]``, of the mean curvature.
        regularization: λ of the filter.
        shape: The filter; drawn relative to its largest value.
        color: ``#rrggbb``.
        height: Pixels.
    """
    bins = spectrum_bins(eigenvalues)
    figure = go.Figure()
    figure.add_bar(
        x=[each.center for each in bins],
        y=[each.count for each in bins],
        width=[each.high - each.low for each in bins],
        name="eigenvalues σ",
        marker_line_width=0,
        marker_color=transparent(color, 0.55),
        hovertemplate="σ ≈ %{x:.2e}: %{y} eigenvalues<extra></extra>",
    )
    if shape is not None:
        _add_filter(figure, shape)
    if regularization > 0:
        marker = Marker(f"λ = {regularization_text(regularization)}", ORANGE, "dash")
        add_marker(figure, max(regularization, _lowest(bins)), marker, 0.0)
    figure.update_layout(
        yaxis2={
            "overlaying": "y",
            "side": "right",
            "range": [0, 1.05],
            "showgrid": False,
            "title": "filter, relative",
            "zeroline": False,
            "tickmode": "array",
            "tickvals": [0, 0.5, 1],
        },
        bargap=0,
    )
    figure.update_xaxes(type="log", title="eigenvalue σ of the mean curvature", exponentformat="power", dtick=2)
    figure.update_yaxes(title="number of eigenvalues", selector={"overlaying": None})
    return finish(figure, height)


def _lowest(bins: Sequence[Bin]) -> float:
    return min(each.low for each in bins)


def _add_filter(figure: go.Figure, shape: FilterShape) -> None:
    """Draw φ relative to its largest value on an axis of its own."""
    figure.add_scatter(
        x=shape.sigma,
        y=shape.weights / shape.weights.max(initial=0.0) if len(shape.weights) else [],
        yaxis="y2",
        mode="lines",
        name="filter",
        line={"color": ORANGE, "width": 2.2},
        hovertemplate="σ = %{x:.2e}: %{y:.2f}<extra></extra>",
    )
