"""Effects over the steps of a run: of one example as lines, of several as colours. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from app.shared.method_style import BLUE, GRAY, GREEN
from app.shared.signs import SCALE, rooted
from app.views.trajectory.charts import CHOSEN, ZERO, effect_text, layout
from app.views.trajectory.unrolled.data import Path


def heat(values: np.ndarray, x: Sequence[int], y: Sequence[str] | Sequence[int]) -> go.Heatmap:
    """Return effects ``[rows, s]`` as colours by sign; colour goes with the root, so that small ones show."""
    shown, limit = rooted(values)
    return go.Heatmap(
        z=shown,
        x=list(x),
        y=list(y),
        zmin=-limit,
        zmax=limit,
        colorscale=SCALE,
        showscale=False,
        ygap=1,
        customdata=values,
        hovertemplate="%{y} after %{x} steps: %{customdata:.3g}<extra></extra>",
    )


def path_figure(path: Path) -> go.Figure:
    """Return one example's effect over the steps: colours above, lines below, its batches marked."""
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.2, 0.8], vertical_spacing=0.05)
    steps = path.steps.tolist()
    figure.add_trace(heat(np.stack([path.predicted, path.truth]), steps, ["predicted", "true"]), row=1, col=1)
    corrected = path.predicted + path.proxy
    lines = [
        ("true: retrained without it", path.truth, {"color": GRAY, "dash": "solid", "width": 3.2}),
        ("predicted", path.predicted, {"color": BLUE, "dash": "solid", "width": 2}),
    ]
    if path.sound and np.isfinite(corrected).any():
        lines.append(("predicted + error proxy", corrected, {"color": GREEN, "dash": "dash", "width": 2}))
    for name, values, line in lines:
        figure.add_scatter(
            x=steps,
            y=values,
            mode="lines+markers",
            name=name,
            line=line,
            marker={"size": 5},
            hovertemplate="after %{x} steps: %{y:.3g}<extra>" + name + "</extra>",
            row=2,
            col=1,
        )
    figure.add_hline(y=0, line=ZERO, row=2, col=1)
    figure.add_scatter(
        x=path.seen,
        y=[0.0] * len(path.seen),
        mode="markers",
        name="a step whose batch holds it",
        marker={"symbol": "triangle-up", "size": 12, "color": CHOSEN},
        hovertemplate="its batch: step %{x}<extra></extra>",
        row=2,
        col=1,
    )
    figure = layout(figure, 360, len(lines) + 1)
    first = min([steps[0], *path.seen])
    margin = max(1.0, 0.5 * (steps[-1] - first) / max(1, len(steps)))
    figure.update_xaxes(range=[first - margin, steps[-1] + margin])
    figure.update_xaxes(title="steps trained", row=2, col=1)
    figure.update_xaxes(ticks="", row=1, col=1)
    figure.update_yaxes(showgrid=False, ticks="", row=1, col=1)
    figure.update_yaxes(title="change of the loss", exponentformat="power", nticks=6, row=2, col=1)
    return figure


@dataclass(frozen=True)
class PathRow:
    """A row of :func:`paths_figure`: a training position, its name, and its effects ``[s]``."""

    position: int
    name: str
    values: np.ndarray


def paths_figure(rows: Sequence[PathRow], steps: Sequence[int], selected: int | None) -> go.Figure:
    """Return the effects of several examples over the steps, a row each; squares over the cells take the clicks.

    Args:
        rows: From the top.
        steps: Steps trained.
        selected: Position of the row with a frame.
    """
    columns, places = range(len(steps)), range(len(rows))
    texts = [
        [f"{row.name} after {step} steps: {effect_text(value)}" for step, value in zip(steps, row.values, strict=True)]
        for row in rows
    ]
    trace = heat(np.stack([row.values for row in rows]), columns, places)
    trace.update(text=texts, hovertemplate="%{text}<extra></extra>", xgap=1, hoverinfo="skip")
    figure = go.Figure(trace)
    figure.add_scatter(
        x=[column for _ in places for column in columns],
        y=[place for place in places for _ in columns],
        mode="markers",
        showlegend=False,
        marker={"symbol": "square", "size": 16, "color": "rgba(0,0,0,0)", "line": {"width": 0}},
        customdata=[[row.position] for row in rows for _ in columns],
        text=[text for row in texts for text in row],
        hovertemplate="%{text}<extra></extra>",
        selected={"marker": {"opacity": 0}},
        unselected={"marker": {"opacity": 0}},
    )
    for place in [place for place, row in enumerate(rows) if row.position == selected]:
        figure.add_shape(
            type="rect",
            x0=-0.5,
            x1=len(steps) - 0.5,
            y0=place - 0.5,
            y1=place + 0.5,
            line={"color": CHOSEN, "width": 2.4},
        )
    figure = layout(figure, 70 + 19 * len(rows))
    shown = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), 6)).round().astype(int)).tolist()
    figure.update_xaxes(
        title="steps trained",
        tickvals=shown,
        ticktext=[str(steps[place]) for place in shown],
        range=[-0.5, len(steps) - 0.5],
    )
    figure.update_yaxes(
        tickvals=list(places),
        ticktext=[row.name for row in rows],
        range=[len(rows) - 0.5, -0.5],
        showgrid=False,
        tickfont={"size": 11},
    )
    return figure
