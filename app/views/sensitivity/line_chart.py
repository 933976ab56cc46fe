"""LDS against one hyper-parameter. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from app.shared.charts import transparent
from app.shared.curves import LDS_TITLE


@dataclass(frozen=True)
class LinePoint:
    """LDS at one value of a hyper-parameter.

    Attributes:
        value: As text.
        number: As a number, ``None`` for words.
        mean: LDS.
        ci_low: Low end of its 95 % interval.
        ci_high: High end.
        regularization: λ behind it; ``None`` for methods without one.
        words: All other settings behind it.
    """

    value: str
    number: float | None
    mean: float
    ci_low: float
    ci_high: float
    regularization: float | None
    words: str


@dataclass(frozen=True)
class Line:
    """One method's points as the figure shows them, in the order of the hyper-parameter."""

    name: str
    color: str
    dash: str
    points: Sequence[LinePoint]

    @property
    def numbers(self) -> list[float]:
        """The values that are numbers."""
        return [point.number for point in self.points if point.number is not None]


def is_logarithmic(lines: Sequence[Line]) -> bool:
    """Return whether every value is a number above 0."""
    return all(point.number is not None and point.number > 0 for line in lines for point in line.points)


def line_figure(lines: Sequence[Line], title: str) -> go.Figure:
    """Return LDS with its interval against one hyper-parameter: on a logarithmic axis if all its values are positive.

    Args:
        lines: At least one.
        title: The hyper-parameter.
    """
    logarithmic = is_logarithmic(lines)
    figure = go.Figure()
    for line in lines:
        points = line.points
        figure.add_scatter(
            x=line.numbers if logarithmic else [point.value for point in points],
            y=[point.mean for point in points],
            name=line.name,
            mode="lines+markers",
            line={"color": line.color, "width": 2.2, "dash": line.dash},
            marker={"size": 8, "color": line.color},
            customdata=[[point.ci_low, point.ci_high, point.words] for point in points],
            hovertemplate="%{y:.3f} (%{customdata[0]:.3f} to %{customdata[1]:.3f}), %{customdata[2]}",
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [point.ci_high - point.mean for point in points],
                "arrayminus": [point.mean - point.ci_low for point in points],
                "color": transparent(line.color, 0.6),
                "width": 4,
            },
        )
    figure.update_layout(
        height=300,
        margin={"l": 8, "r": 12, "t": 34, "b": 8},
        hovermode="x unified",
        showlegend=len(lines) > 1,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )
    figure.update_yaxes(title=LDS_TITLE, zeroline=False, automargin=True)
    figure.update_xaxes(title=title, showgrid=False, ticks="outside")
    if logarithmic:
        _logarithmic_axis(figure, sorted({value for line in lines for value in line.numbers}))
    else:
        figure.update_xaxes(type="category")
    return figure


def _logarithmic_axis(figure: go.Figure, values: Sequence[float]) -> None:
    figure.update_xaxes(type="log", tickvals=values, ticktext=[f"{value:g}" for value in values])
    low, high = math.log10(values[0]), math.log10(values[-1])
    margin = 0.06 * max(high - low, 0.5)
    figure.update_xaxes(range=[low - margin, high + margin])
