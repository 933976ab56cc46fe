"""Rows about leaving out single examples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LOOScore:
    """How well one configuration at one λ foretells leave-one-out effects: a row of ``loo_scores``.

    Attributes:
        configuration_id: Which.
        label: In words.
        regularization: λ, or ``None``.
        mean: Spearman over examples, mean over queries; NaN where scores are constant.
        ci_low: 95 % bootstrap over the examples.
        ci_high: Likewise.
        per_example: The same correlation over queries, mean over examples.
        ceiling: What perfect scores could reach given the noise between seeds.
        num_examples: Examples left out.
        is_selected: The row at λ*.
    """

    configuration_id: str
    label: str
    regularization: float | None
    mean: float
    ci_low: float
    ci_high: float
    per_example: float
    ceiling: float | None
    num_examples: int
    is_selected: bool


@dataclass(frozen=True)
class LOOEffect:
    """What leaving out one training example did to every query: a row of ``loo_effects``.

    Attributes:
        position: Training position.
        num_seeds: Retrainings behind it.
        effects: Goodness lost without it, ``[m]``.
        standard_errors: Over seeds, ``[m]``; NaN with one seed.
    """

    position: int
    num_seeds: int
    effects: np.ndarray
    standard_errors: np.ndarray
