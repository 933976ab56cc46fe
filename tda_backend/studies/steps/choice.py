"""What steps share that choose λ by themselves: the grid, λ* by ξ, and λ as a selector means it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tda_backend.errors import StudyError
from tda_backend.numerics.evaluation.selection import WantedGrid, grid_and_selection, spectrum_quantiles
from tda_backend.numerics.spectral.contraction import ScoreMatrix, Source
from tda_backend.studies.config.configuration import Configuration
from tda_backend.studies.config.selector import BEST, DEFAULT, QUANTILE, SELECTED, ZERO, Selector
from tda_backend.studies.config.study import Study
from tda_backend.studies.contract.method import method
from tda_backend.studies.pipeline.context import RunContext
from tda_backend.studies.pipeline.step import Step, setting


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Settings of a step that chooses λ; ``None`` where the method has none.

    Attributes:
        regularizations: The study's grid.
        relative: Whether it is relative to the spectrum.
        threshold: Of ξ̄, for λ*.
        quantiles: Of the spectrum.
    """

    regularizations: Sequence[float] | None = setting(None)
    relative: bool | None = setting(None)
    threshold: float | None = setting(None)
    quantiles: Sequence[float] | None = setting(None)

    def grid_with_selected(self, source: Any) -> list[float]:
        """Return those λ of the grid at which there are scores, and λ* as the last one."""
        assert self.regularizations is not None
        assert self.threshold is not None
        wanted = WantedGrid(self.regularizations, bool(self.relative))
        grid, chosen = grid_and_selection(source, wanted, self.threshold)
        return [*grid, chosen.regularization]

    def meant(self, context: RunContext, selector: Selector, source: Source, evaluation: Step | None) -> float | None:
        """Return the λ that a selector means; λ* is found anew, so that more retrained subsets change nothing.

        Args:
            context: The store.
            selector: From the study file.
            source: Of the configuration.
            evaluation: Of the configuration, for ``best``.
        """
        if isinstance(source, ScoreMatrix):
            return None
        known = Known()
        if selector.regularization == SELECTED:
            known = Known(selected=self.grid_with_selected(source)[-1])
        elif selector.regularization == BEST:
            assert evaluation is not None
            frame = context.open(evaluation).table("lds").to_pandas()
            mine = frame.loc[frame["alpha"] == selector.alpha]
            known = Known(lds=list(zip(mine["regularization"], mine["mean"], strict=True)))
        elif str(selector.regularization).startswith(QUANTILE):
            assert self.quantiles is not None
            found = spectrum_quantiles(source, self.quantiles)
            known = Known(quantiles={f"{quantile:g}": value for quantile, value in found.items()})
        return regularization_of(selector, known)


def choice_settings(study: Study, configuration: Configuration) -> dict[str, Any]:
    """Return the settings of a step that chooses λ of a configuration; none where that has no λ."""
    return about_regularization(study) if configuration.has_regularization else {}


def about_regularization(study: Study) -> dict[str, Any]:
    """Return the settings of a step that chooses λ."""
    return {
        "regularizations": study.regularization.values,
        "relative": study.regularization.relative,
        "threshold": study.evaluation.threshold,
        "quantiles": study.evaluation.quantiles,
    }


@dataclass(frozen=True)
class Known:
    """What is known of a configuration's λ.

    Attributes:
        selected: λ*.
        lds: λ and LDS of its curve at one α.
        quantiles: Quantile (as ``0.5``) → λ of the spectrum.
    """

    selected: float | None = None
    lds: Sequence[tuple[float, float | None]] = ()
    quantiles: Mapping[str, float] = field(default_factory=dict)


def regularization_of(selector: Selector, known: Known) -> float | None:
    """Return the λ that a selector means, or ``None`` if its method has none.

    Raises:
        StudyError: ``best`` without ground truth, or a quantile the study does not evaluate.
    """
    spec = method(selector.method)
    if not spec.has_regularization:
        return None
    wanted = selector.regularization
    if isinstance(wanted, float):
        return wanted
    if wanted == ZERO:
        return 0.0
    if wanted == DEFAULT:
        default = spec.default_for({"damping": spec.usual("damping"), **selector.content})
        if default is None:
            raise StudyError(f"The papers give no λ for {selector}.", "Give regularization as a number.")
        return default
    if wanted == SELECTED:
        if known.selected is None:
            raise StudyError(f"No λ was selected for {selector}.", "Give regularization as a number.")
        return float(known.selected)
    if wanted == BEST:
        finite = [(mean, value) for value, mean in known.lds if mean is not None and math.isfinite(mean)]
        if not finite:
            raise StudyError(f'"best" needs an LDS for {selector}.', "Set ground_truth.subsets, or another λ.")
        return float(max(finite, key=lambda pair: pair[0])[1])
    share = float(str(wanted).removeprefix(QUANTILE))
    found = {f"{float(name):g}": value for name, value in known.quantiles.items()}.get(f"{share:g}")
    if found is None:
        there = ", ".join(known.quantiles) or "none"
        raise StudyError(f"The study does not evaluate {wanted}.", f"It has: {there}.")
    return float(found)
