"""One method as the page on sensitivity shows it: its configuration, and its LDS wherever it is stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from app.configurations import Configuration
from app.session import Context
from app.views.sensitivity.grid import BEST, Cell, Comparable, Value, axis_value, comparable, nearest_regularization
from tda_backend.interfaces.reading.records.base import records
from tda_backend.interfaces.reading.records.curves import LdsRow


@dataclass(frozen=True)
class Shown:
    """One method on the page.

    Attributes:
        row: Its configuration at the present settings, or nearest to them.
        cells: LDS of all its configurations at every stored λ.
        lam: The stored λ nearest to the present one; ``None`` for methods without λ.
    """

    row: Configuration
    cells: list[Cell]
    lam: float | None

    def compared(self, axes: Sequence[str], treatment: str) -> Comparable:
        """Return the cells that take part in a figure over some axes."""
        found = comparable(self.cells, axes)
        return found if treatment == BEST else replace(found, cells=self.cells)

    def present(self, axis: str) -> Value | None:
        """Return where the present configuration lies on an axis."""
        return axis_value(self.row, axis, self.lam)


def cells_of(context: Context) -> list[Cell]:
    """Return every stored LDS with its configuration."""
    by_id = {row.configuration_id: row for row in context.configurations}
    rows = records(context.opened.lds_table(context.alpha), LdsRow)
    return [Cell(by_id[row.configuration_id], row) for row in rows if row.configuration_id in by_id]


def shown_of(context: Context, row: Configuration, cells: Sequence[Cell]) -> Shown:
    """Return one method as the page shows it."""
    mine = [cell for cell in cells if cell.row.method == row.method]
    grid = [cell.regularization for cell in mine if cell.regularization is not None]
    return Shown(row, mine, nearest_regularization(grid, context.view.lam or 0.0) if grid else None)
