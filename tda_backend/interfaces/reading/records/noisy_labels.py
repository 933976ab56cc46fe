"""Rows about finding wrong labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Detection:
    """How well the self-influence of one configuration at one λ finds wrong labels: a row of ``noisy_labels``.

    Attributes:
        configuration_id: Which.
        method: Key of the method table.
        label: In words.
        regularization: λ, or ``None``.
        is_selected: The row at λ*.
        auc: Area under the ROC curve; 0.5 is chance.
        auc_low: 95 % over examples.
        auc_high: Likewise.
        recall: Share of wrong labels among the first 10, 20 … 90 % inspected.
        recall_low: 95 %.
        recall_high: Likewise.
        num_flipped: Wrong labels.
    """

    configuration_id: str
    method: str
    label: str
    regularization: float | None
    is_selected: bool
    auc: float
    auc_low: float
    auc_high: float
    recall: np.ndarray
    recall_low: np.ndarray
    recall_high: np.ndarray
    num_flipped: int


@dataclass(frozen=True)
class WrongLabel:
    """A training position whose label is known to be wrong: a row of ``noisy_rows``."""

    position: int
    original_label: str | None

    @property
    def words(self) -> str:
        """What is known of the right label."""
        return "wrong label" if self.original_label is None else f"was {self.original_label}"
