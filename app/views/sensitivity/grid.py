"""LDS over any settings of a method: axes, cells, lines and how flat they are. Pure functions.

An *axis* is ``lam``, ``k``, ``epoch``, or ``set:`` and the name of a hyper-parameter.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from app import settings
from app.configurations import Configuration
from app.formats import joined, projection_text, regularization_text
from app.settings import value_of
from app.state import UNPROJECTED, k_text
from app.views.sensitivity.line_chart import LinePoint
from tda_backend.interfaces.reading.records.curves import LdsRow

LAM, K, EPOCH = "lam", "k", "epoch"
BEST, ALL, PRESENT = "best", "all", "present"
"""What becomes of the hyper-parameters that a figure does not show.

The best of those that every place has, so that like is compared with like; the best of all, wherever they were
computed; or those in view.
"""
SETTING = "set:"
TITLES = {
    LAM: "λ (units of the mean Gram)",
    K: "projection dimension k",
    EPOCH: "training epoch of the features",
}
SHORT = {LAM: "λ", K: "k", EPOCH: "epoch"}
COLUMNS = {LAM: "regularization", K: "k", EPOCH: "training_epoch"}
Value = float | str


def axis_title(axis: str) -> str:
    """Return what an axis is, for people."""
    return TITLES.get(axis) or settings.label(axis.removeprefix(SETTING))


def axis_name(axis: str) -> str:
    """Return an axis as names of files have it."""
    return COLUMNS.get(axis, axis)


def axis_value(row: Configuration, axis: str, lam: float | None) -> Value | None:
    """Return where a configuration at a λ lies on an axis; ``None`` where it has no such setting."""
    if axis == LAM:
        return lam
    if axis == K:
        return k_text(row.projection_dim)
    return row.training_epoch if axis == EPOCH else value_of(row.settings, axis.removeprefix(SETTING))


def axis_label(value: Value, axis: str) -> str:
    """Return the tick of a value."""
    if axis.startswith(SETTING):
        return settings.value_words(axis.removeprefix(SETTING), str(value))
    return regularization_text(float(value)) if axis == LAM else str(value)


@dataclass(frozen=True)
class Cell:
    """LDS of one configuration at one λ.

    Attributes:
        row: The configuration.
        point: Its LDS there.
    """

    row: Configuration
    point: LdsRow

    @property
    def mean(self) -> float:
        """LDS."""
        return self.point.mean

    @property
    def regularization(self) -> float | None:
        """λ, ``None`` for methods without one."""
        return self.point.regularization

    def value(self, axis: str) -> Value | None:
        """Return where the cell lies on an axis."""
        return axis_value(self.row, axis, self.regularization)

    def words(self, axis: str) -> str:
        """Return the cell's settings in words, without that of an axis."""
        row = self.row
        known = {
            LAM: "" if self.regularization is None else f"λ = {regularization_text(self.regularization)}",
            K: projection_text(row.projection_dim),
            EPOCH: f"epoch {row.training_epoch}",
            **{f"{SETTING}{name}": settings.words(name, value) for name, value in row.choices},
        }
        return ", ".join(text for each, text in known.items() if text and each != axis)


def axes_of(cells: Sequence[Cell]) -> list[str]:
    """Return the axes on which some cells differ."""
    names = dict.fromkeys(name for cell in cells for name, _ in cell.row.settings)
    axes = [*TITLES, *(f"{SETTING}{name}" for name in names)]
    return [axis for axis in axes if len(values_of(cells, axis)) > 1]


def values_of(cells: Iterable[Cell], axis: str) -> list[Value]:
    """Return the distinct values of an axis in its order."""
    known = list(dict.fromkeys(value for cell in cells if (value := cell.value(axis)) is not None))
    if axis.startswith(SETTING):
        return [*settings.ordered([str(value) for value in known])]
    if axis == K:
        return sorted(known, key=lambda text: (text == UNPROJECTED, 0 if text == UNPROJECTED else int(text)))
    return sorted(known, key=float)


def held(cells: Iterable[Cell], fixed: Mapping[str, Value | None]) -> list[Cell]:
    """Return the cells that have the fixed values; an axis whose value is ``None`` is left alone."""
    wanted = {axis: value for axis, value in fixed.items() if value is not None}
    return [cell for cell in cells if all(cell.value(axis) == value for axis, value in wanted.items())]


def _best_by(cells: Iterable[Cell], axes: Sequence[str]) -> dict[tuple[Value, ...], Cell]:
    """Return the best cell at each combination of values; cells without an LDS or a value are left out."""
    best: dict[tuple[Value, ...], Cell] = {}
    for cell in cells:
        place = tuple(value for axis in axes if (value := cell.value(axis)) is not None)
        if math.isnan(cell.mean) or len(place) < len(axes):
            continue
        if place not in best or cell.mean > best[place].mean:
            best[place] = cell
    return best


@dataclass(frozen=True)
class Comparable:
    """Cells that compare like with like: at every place of a figure the same other settings were computed.

    Attributes:
        cells: Those.
        kept: Axis that a figure does not show → its values among the cells.
        left_out: Likewise → values that some places lack, and that no cell has therefore.
        lacks_lam: Whether λ are left out that some of the other settings lack, as grids relative to the spectrum do.
    """

    cells: list[Cell]
    kept: Mapping[str, list[Value]]
    left_out: Mapping[str, list[Value]]
    lacks_lam: bool = False


def comparable(cells: Sequence[Cell], axes: Sequence[str]) -> Comparable:
    """Return the cells whose other settings were computed at every place; all of them where no such settings exist.

    λ is no such setting. Where it is an axis, λ stay that all other settings have: grids that are relative to the
    spectrum meet only in part.

    Args:
        cells: Of one method.
        axes: What a figure shows.
    """
    others = [axis for axis in axes_of(cells) if axis not in (*axes, LAM)]
    places: dict[tuple[Value | None, ...], set[tuple[Value | None, ...]]] = {}
    for cell in cells:
        place = tuple(cell.value(axis) for axis in axes if axis != LAM)
        places.setdefault(place, set()).add(tuple(cell.value(axis) for axis in others))
    common = set.intersection(*places.values()) if places else set()
    mine = [cell for cell in cells if tuple(cell.value(axis) for axis in others) in common] or list(cells)
    whole = len(mine)
    if LAM in axes:
        mine = _at_common_lam(mine, [axis for axis in axes if axis != LAM], others) or mine
    kept = {axis: values_of(mine, axis) for axis in others}
    lost = {axis: [value for value in values_of(cells, axis) if value not in kept[axis]] for axis in others}
    return Comparable(mine, kept, {axis: values for axis, values in lost.items() if values}, len(mine) < whole)


def _at_common_lam(cells: Sequence[Cell], axes: Sequence[str], others: Sequence[str]) -> list[Cell]:
    """Return the cells whose λ every one of the other settings has at the same place of a figure."""
    found: dict[tuple[Value | None, ...], dict[tuple[Value | None, ...], set[Value | None]]] = {}
    for cell in cells:
        at = found.setdefault(tuple(cell.value(axis) for axis in axes), {})
        at.setdefault(tuple(cell.value(axis) for axis in others), set()).add(cell.value(LAM))
    shared = {place: set.intersection(*at.values()) for place, at in found.items()}
    return [cell for cell in cells if cell.value(LAM) in shared[tuple(cell.value(axis) for axis in axes)]]


def like_text(method: str, found: Comparable, treatment: str) -> str:
    """Return what a figure of the best of the other settings leaves out, or compares although it is not alike."""
    if treatment == PRESENT:
        return ""
    remarks = []
    if found.left_out:
        kept = ", ".join(_values_text(axis, found.kept[axis]) for axis in found.left_out)
        lost = ", ".join(_values_text(axis, values) for axis, values in found.left_out.items())
        remarks.append(
            f"{method} counts at {kept} alone, which every value has; {lost}: not computed everywhere."
            if treatment == BEST
            else f"{method}, not like with like: some values were computed at {kept} alone, others at {lost} too."
        )
    if found.lacks_lam:
        remarks.append(
            f"{method}: some λ are left out, which not all other settings have."
            if treatment == BEST
            else f"{method}, not like with like: not all other settings have every λ."
        )
    return " ".join(remarks)


def _values_text(axis: str, values: Sequence[Value]) -> str:
    name = SHORT.get(axis) or settings.label(axis.removeprefix(SETTING))
    return f"{name} {joined([axis_label(value, axis) for value in values])}"


@dataclass(frozen=True)
class Grid:
    """LDS over two settings.

    Attributes:
        cells: (value along, value up) → what is there.
        x: Axis along.
        y: Axis up.
        x_values: In the order of the axis.
        y_values: Likewise.
    """

    cells: Mapping[tuple[Value, ...], Cell]
    x: str
    y: str
    x_values: list[Value]
    y_values: list[Value]

    @property
    def best(self) -> tuple[Value, ...]:
        """Where the highest LDS is."""
        return max(self.cells, key=lambda place: self.cells[place].mean)


def grid_of(cells: Sequence[Cell], x: str, y: str, fixed: Mapping[str, Value | None] | None = None) -> Grid:
    """Return LDS over two axes; others are fixed, or the best of them is taken in each cell.

    The axes show every value that the cells have, so that figures side by side line up; what was not computed stays
    empty.

    Args:
        cells: Of one method.
        x: Axis along.
        y: Axis up.
        fixed: Other axes with their values (k and hyper-parameters as text).
    """
    best = _best_by(held(cells, fixed or {}), (x, y))
    along, up = values_of(cells, x), values_of(cells, y)
    ordered = {place: best[place] for place in itertools.product(along, up) if place in best}
    return Grid(ordered, x, y, along, up)


def line_of(cells: Sequence[Cell], axis: str, fixed: Mapping[str, Value | None] | None = None) -> list[LinePoint]:
    """Return LDS against one axis; others are fixed, or the best of them is taken at each value."""
    best = {place[0]: cell for place, cell in _best_by(held(cells, fixed or {}), (axis,)).items()}
    return [
        LinePoint(
            axis_label(value, axis),
            settings.number(str(value)),
            best[value].mean,
            best[value].point.ci_low,
            best[value].point.ci_high,
            best[value].regularization,
            best[value].words(axis),
        )
        for value in values_of(best.values(), axis)
    ]


def nearest_regularization(values: Iterable[float], lam: float) -> float:
    """Return the value of a grid that is nearest to λ in ratio; 0 only for λ = 0."""
    positive = [value for value in values if value > 0]
    return 0.0 if lam <= 0 or not positive else min(positive, key=lambda value: abs(math.log(value / lam)))


def flatness(values: Iterable[float], share: float = 0.05) -> tuple[float, int]:
    """Return the share of cells whose LDS is within ``share`` of the best, and how many cells there are."""
    known = [value for value in values if not math.isnan(value)]
    if not known or max(known) <= 0:
        return math.nan, len(known)
    return sum(value >= (1 - share) * max(known) for value in known) / len(known), len(known)
