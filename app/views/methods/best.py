"""Each method at its best: the configuration and λ* with the highest LDS, and what its scores cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from app import services
from app.configurations import Configuration, Configurations
from app.formats import projection_text, regularization_text
from app.session import Context
from tda_backend.interfaces.reading.records.base import records
from tda_backend.interfaces.reading.records.curves import LdsRow
from tda_backend.interfaces.reading.records.selections import SelectionRow


@dataclass(frozen=True)
class Best:
    """One method at its best.

    Attributes:
        row: The configuration.
        regularization: λ*; ``None`` for methods without λ.
        lds: LDS there; ``None`` while nothing was retrained.
        low: Low end of its 95 % interval.
        high: High end.
        seconds: Of the steps behind its scores; ``None`` if unknown.
        num_configurations: How many the method has in this study.
    """

    row: Configuration
    regularization: float | None = None
    lds: float | None = None
    low: float | None = None
    high: float | None = None
    seconds: float | None = None
    num_configurations: int = 1

    @property
    def height(self) -> float:
        """LDS for comparing: below all others where there is none."""
        return -math.inf if self.lds is None else self.lds

    @property
    def details(self) -> str:
        """Which configuration, for a tooltip."""
        parts = [f"epoch {self.row.training_epoch}", projection_text(self.row.projection_dim)]
        relative = " relative to each layer" if self.row.is_relative else ""
        parts += [] if self.regularization is None else [f"λ* = {regularization_text(self.regularization)}{relative}"]
        return f"{self.row.variant_title}<br>{', '.join(parts)}"


def best_of_each(context: Context) -> list[Best]:
    """Return each method at the configuration whose λ* gives the best LDS, methods without λ at their best setting.

    Best LDS first, then the methods whose LDS is not there yet.
    """
    opened, costs = context.opened, services.costs(context.opened)
    selections = {row.configuration_id: row for row in records(opened.selections(context.alpha), SelectionRow)}
    without = {
        row.configuration_id: row
        for row in records(opened.lds_table(context.alpha), LdsRow)
        if not row.has_regularization
    }
    found = []
    for mine in context.configurations.by_method().values():
        best = max((_at_its_lambda(row, selections, without) for row in mine), key=lambda each: each.height)
        seconds = costs.get(best.row.configuration_id)
        found.append(replace(best, seconds=seconds, num_configurations=len(mine)))
    return sorted(found, key=lambda each: each.height, reverse=True)


def _at_its_lambda(row: Configuration, selections: Mapping[str, SelectionRow], without: Mapping[str, LdsRow]) -> Best:
    """Return one configuration with the LDS at its λ*, or the LDS where there is no λ."""
    chosen, fixed = selections.get(row.configuration_id), without.get(row.configuration_id)
    if row.has_regularization and chosen is not None:
        low, high = chosen.lds_selected_low, chosen.lds_selected_high
        return Best(row, chosen.lambda_selected, chosen.lds_selected, low, high)
    if fixed is not None and not math.isnan(fixed.mean):
        return Best(row, None, fixed.mean, fixed.ci_low, fixed.ci_high)
    return Best(row)


def usual_rival(known: Configurations, present: Configuration) -> Configuration | None:
    """Return what to compare with at first: the best configuration of another method, else the best other one."""
    others = [row for row in known if row.configuration_id != present.configuration_id]
    foreign = [row for row in others if row.method != present.method]
    pool = foreign or others
    rated = [row for row in pool if row.best_lds is not None]
    return max(rated, key=lambda row: row.best_lds or 0.0) if rated else next(iter(pool), None)
