"""What claims are compared with: the figures of a study, as kinds of claims ask for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tda_backend.numerics.evaluation.claims import Measured
from tda_backend.numerics.trajectory.lookahead.results import SelectionRun
from tda_backend.studies.config.configuration import Configuration
from tda_backend.studies.config.selector import Selector


@dataclass(frozen=True)
class Curve:
    """LDS of one configuration at one α.

    Attributes:
        values: λ, ``[L']``: those of the grid, λ*, then what other rules choose.
        means: LDS, ``[L']``.
        draws: Bootstrap draws of it, ``[B, L']``.
        grid: How many of the values are the grid's.
    """

    values: np.ndarray
    means: np.ndarray
    draws: np.ndarray
    grid: int


@dataclass(frozen=True)
class NamedRun:
    """A run of selection while training, under its strategy's name in the catalogue."""

    name: str
    run: SelectionRun


class Evidence(Protocol):
    """The figures of a study."""

    @property
    def configurations(self) -> Sequence[Configuration]:
        """Those that some claim names."""
        ...

    @property
    def alphas(self) -> Sequence[float]:
        """α of the ground truth; the first is meant where a claim names none."""
        ...

    def curve(self, configuration: Configuration, alpha: float | None = None) -> Curve:
        """Return LDS over λ."""
        ...

    def measured(self, selector: Selector) -> Measured:
        """Return the LDS that a selector names."""
        ...

    def at(self, configuration: Configuration, selector: Selector) -> Measured:
        """Return the LDS of a configuration at the λ that a selector means, at the first α."""
        ...

    def spread(self, selector: Selector) -> Measured:
        """Return the range of LDS over the positive λ of the grid."""
        ...

    def area(self, selector: Selector) -> Measured:
        """Return the area under a subset-removal curve."""
        ...

    def indicator(self, configuration: Configuration) -> np.ndarray:
        """Return ξ̄ over the positive λ of the grid, ascending, ``[L]``."""
        ...

    def unrolled(self, rate: float, what: str, words: str) -> Measured:
        """Return a number of the summary of the runs at one learning rate; NaN where it has none.

        Args:
            rate: η₀.
            what: Which number.
            words: What it is called.
        """
        ...

    def selections(self) -> Sequence[NamedRun]:
        """Return the runs of selection while training that every seed finished."""
        ...
