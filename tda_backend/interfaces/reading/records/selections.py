"""λ* of each configuration, and what rules for λ, the epoch and the projection chose."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tda_backend.interfaces.reading.records.base import record


@dataclass(frozen=True)
class Quantile:
    """A quantile of the eigenvalues taken as λ.

    Attributes:
        share: Which quantile, 0..1.
        regularization: Its value.
        lds: LDS there.
        regret: LDS that it gives away against the best λ.
    """

    share: float
    regularization: float | None
    lds: float | None
    regret: float | None


@dataclass(frozen=True)
class Selection:
    """One object of :meth:`Study.selection`: λ* of Algorithm 1 and its baselines.

    Attributes:
        configuration_id: Of the configuration.
        threshold: Of ξ̄, where λ* was chosen.
        lambda_selected: λ*.
        xi_at_selected: ξ̄ there.
        lds_selected: LDS there.
        lambda_best: Best λ of grid and λ*.
        lds_best: LDS there.
        regret: ``lds_best − lds_selected``.
        lds_at_zero: LDS of the pseudo-inverse.
        warnings: What is odd about the choice.
        quantiles: Spectrum baselines.
    """

    configuration_id: str
    threshold: float
    lambda_selected: float | None
    xi_at_selected: float | None
    lds_selected: float | None
    lambda_best: float | None
    lds_best: float | None
    regret: float | None
    lds_at_zero: float | None
    warnings: list[str]
    quantiles: tuple[Quantile, ...]


def selection_of(found: Mapping[str, Any]) -> Selection | None:
    """Return the object of :meth:`Study.selection` as a record; ``None`` where nothing was selected."""
    if not found:
        return None
    return record({**found, "quantiles": quantiles_of(found.get("quantiles", {}))}, Selection)


def quantiles_of(content: Mapping[str, Mapping[str, float | None]]) -> tuple[Quantile, ...]:
    """Return quantile → λ, LDS and regret, as the catalogue keeps it, as records."""
    return tuple(
        Quantile(float(share), entry.get("lambda"), entry.get("lds"), entry.get("regret"))
        for share, entry in content.items()
    )


@dataclass(frozen=True)
class SelectionRow:
    """One row of :meth:`Study.selections`: λ* of a configuration, its baselines and the best λ.

    Attributes:
        configuration_id: Of the configuration.
        method: Key of the method table.
        label: All settings in one line.
        training_epoch: Checkpoint of the features.
        projection_dim: k; ``None`` for the unprojected answer.
        alpha: Share of the training set in a subset.
        lambda_selected: λ*.
        xi_at_selected: ξ̄ there.
        lds_selected: LDS there.
        lds_selected_low: Low end of its 95 % interval.
        lds_selected_high: High end.
        lambda_best: Best λ of grid and λ*.
        lds_best: LDS there.
        regret: ``lds_best − lds_selected``.
        lds_at_zero: LDS of the pseudo-inverse.
        quantiles: Quantile of the spectrum → its λ, LDS and regret.
        threshold: Of ξ̄, where λ* was chosen.
        num_crossings: How often ξ̄ crosses it.
        warnings: What is odd about the choice.
        num_subsets: Retrained subsets behind the LDS.
    """

    configuration_id: str
    method: str
    label: str
    training_epoch: int
    projection_dim: int | None
    alpha: float
    lambda_selected: float | None
    xi_at_selected: float | None
    lds_selected: float | None
    lds_selected_low: float | None
    lds_selected_high: float | None
    lambda_best: float | None
    lds_best: float | None
    regret: float | None
    lds_at_zero: float | None
    quantiles: Mapping[str, Mapping[str, float | None]]
    threshold: float | None
    num_crossings: int
    warnings: list[str]
    num_subsets: int

    @property
    def baselines(self) -> tuple[Quantile, ...]:
        """The quantiles as records."""
        return quantiles_of(self.quantiles)

    def to_json(self) -> dict[str, Any]:
        """Return the object of ``tda select --json``."""
        return {
            "method": self.method,
            "label": self.label,
            "training_epoch": self.training_epoch,
            "projection_dim": self.projection_dim,
            "alpha": self.alpha,
            "lambda_selected": _finite(self.lambda_selected),
            "xi_at_selected": _finite(self.xi_at_selected),
            "lds_selected": _finite(self.lds_selected),
            "lds_selected_ci": [_finite(self.lds_selected_low), _finite(self.lds_selected_high)],
            "lambda_best": _finite(self.lambda_best),
            "lds_best": _finite(self.lds_best),
            "regret": _finite(self.regret),
            "lds_at_zero": _finite(self.lds_at_zero),
            "quantiles": {
                key: {name: _finite(value) for name, value in entry.items()} for key, entry in self.quantiles.items()
            },
            "threshold": _finite(self.threshold),
            "num_crossings": self.num_crossings,
            "warnings": list(self.warnings),
            "num_subsets": self.num_subsets,
            "configuration_id": self.configuration_id,
        }


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


@dataclass(frozen=True)
class RuleRow:
    """What one rule for λ chose in one configuration: a row of :meth:`Study.rules`."""

    rule: str
    configuration_id: str
    regularization: float | None
    lds: float | None
    regret: float
    num_retrainings: float


@dataclass(frozen=True)
class TuningRow:
    """What a rule without retraining chose among epochs or dimensions: a row of :meth:`Study.tuning`.

    LDS and regret are NaN where there is no ground truth to judge by.
    """

    what: str
    rule: str
    chosen: str
    lds: float
    regret: float
    configuration_id: str = ""

    @property
    def is_judged(self) -> bool:
        """Whether ground truth says how good the choice is."""
        return math.isfinite(self.lds)


def chosen_without_truth(rows: Sequence[TuningRow]) -> dict[str, list[str]]:
    """Return configuration → the rules that choose it, as ``training_epoch: progress``, where nothing judges them."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if not row.is_judged:
            found.setdefault(row.configuration_id, []).append(f"{row.what}: {row.rule}")
    return found


@dataclass(frozen=True)
class Race:
    """How racing all configurations and λ ended: the object of :meth:`Study.race`."""

    label: str
    regularization: float | None
    lds: float
    regret: float
    num_candidates: int
    num_subsets: int
    sentence: str
