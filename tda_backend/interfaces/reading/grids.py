"""The λ grid of a study as it lies on each configuration, and λ* beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tda_backend.numerics.evaluation.selection import WantedGrid
from tda_backend.numerics.spectral.contraction import ScoreMatrix, Source
from tda_backend.studies.config.study import RegularizationGrid

_EDGE = 1e-9
"""Relative difference below which two λ are one."""


@dataclass(frozen=True)
class Edges:
    """The smallest and largest λ > 0 of the grid at which a configuration was evaluated."""

    configuration_id: str
    low: float
    high: float


def grid_on(grid: RegularizationGrid, source: Source) -> list[float]:
    """Return the λ of a study's grid on one configuration, in units of the mean Gram."""
    if isinstance(source, ScoreMatrix):
        return grid.values
    return WantedGrid(grid.values, bool(grid.relative)).of(source)


def whole_grid(grid: RegularizationGrid, edges: Sequence[Edges]) -> list[float]:
    """Return a grid of λ, as dense as the study's, over the grids of all configurations.

    Args:
        grid: The study's; one that is not relative is the same for all.
        edges: Of the configurations evaluated by now.
    """
    if not grid.relative or not edges:
        return grid.values
    low, high = min(each.low for each in edges), max(each.high for each in edges)
    decades, per_decade = np.log10(high / low), (grid.count - 1) / np.log10(grid.high / grid.low)
    values = np.logspace(np.log10(low), np.log10(high), round(decades * per_decade) + 1)
    return ([0.0] if grid.include_zero else []) + [float(value) for value in values]


def edge_note(chosen: float | None, edges: Edges | None, is_relative: bool = False) -> str:
    """Return a sentence where λ* lies at the end of a grid or beyond it, else nothing."""
    if edges is None or chosen is None or not np.isfinite(chosen):
        return ""
    below, above = chosen <= edges.low * (1 + _EDGE), chosen >= edges.high * (1 - _EDGE)
    if not below and not above:
        return ""
    end, key = ("lower", "low") if below else ("upper", "high")
    remedy = "" if is_relative else ", or set regularization.relative = true"
    return (
        f"λ* = {chosen:.3g} lies at the {end} end of the λ grid ({edges.low:.3g} to {edges.high:.3g}) or beyond it: "
        f"the best λ of the grid says little; move regularization.{key} out{remedy}"
    )


def with_edge_notes(
    rows: Sequence[Mapping[str, Any]], edges: Sequence[Edges], grid: RegularizationGrid
) -> list[list[str]]:
    """Return the warnings of every selection, with the one about the ends of its grid.

    Where ξ̄ crosses its threshold nowhere, λ* is no place on any grid, and a warning says so already.
    """
    by_id = {each.configuration_id: each for each in edges}
    found: list[list[str]] = []
    for row in rows:
        edge = by_id.get(row["configuration_id"]) if row["num_crossings"] else None
        note = edge_note(row["lambda_selected"], edge, bool(grid.relative))
        found.append([*row["warnings"], *([note] if note else [])])
    return found
