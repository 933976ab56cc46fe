"""Finding mislabelled training examples: inspect by self-influence, highest first (METHODS §7; EK-FAC IF, SOURCE §5).

ROC-AUC is the probability that a flipped example has a higher self-influence than a clean one, ties counting half
(Mann–Whitney). Recall at a share x is the part of all flipped examples among the first x·n inspected; within a tie the
order is unknown, so the expected recall of a random order is taken. Intervals are 95 % over examples, flipped and clean
ones drawn separately: how many were flipped is fixed by design.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tda_backend.errors import DataError, NumericalError, UsageError
from tda_backend.seeds import hashed_rng

SHARES: tuple[float, ...] = tuple(round(0.1 * step, 1) for step in range(1, 10))
_DRAWS_AT_ONCE = 64  # times n weights of 8 bytes


@dataclass(frozen=True)
class Detection:
    """How well a ranking finds flipped labels.

    Attributes:
        auc: ROC-AUC; .5 is chance.
        auc_low: 2.5 % quantile of the bootstrap over examples.
        auc_high: 97.5 % quantile.
        shares: ``[x]`` inspected share of the training examples.
        recall: ``[x]`` found share of the flipped examples; chance is the share itself.
        recall_low: ``[x]``.
        recall_high: ``[x]``.
        num_flipped: Flipped examples.
        num_examples: n.
        is_flat: All values are equal, so the ranking says nothing (AUC .5, recall = share).
    """

    auc: float
    auc_low: float
    auc_high: float
    shares: np.ndarray
    recall: np.ndarray
    recall_low: np.ndarray
    recall_high: np.ndarray
    num_flipped: int
    num_examples: int
    is_flat: bool


def inspection_order(self_influence: np.ndarray) -> np.ndarray:
    """Return training positions by descending self-influence, ties by position, ``[n]`` int64.

    Raises:
        UsageError: The values are not one row.
        NumericalError: A value is not finite.
    """
    return np.argsort(-_checked(self_influence), kind="stable")


def noisy_label_detection(
    self_influence: np.ndarray,
    flipped: np.ndarray,
    *,
    shares: Sequence[float] = SHARES,
    num_bootstrap: int = 1000,
    seed: int = 0,
) -> Detection:
    """Return ROC-AUC and recall of finding flipped labels by self-influence, with intervals.

    Args:
        self_influence: ``[n]``; any other value to rank by (highest first) does too.
        flipped: ``[n]`` bool, whose label was changed.
        shares: Inspected shares, in [0, 1].
        num_bootstrap: Draws; 0 leaves the intervals NaN.
        seed: Seed of the draws; the same for every method (paired).

    Raises:
        UsageError: Shapes do not match, or a share is outside [0, 1].
        DataError: No example is flipped, or every one.
        NumericalError: A value is not finite.
    """
    values, marked = _checked_pair(self_influence, flipped)
    wanted = np.asarray(shares, dtype=np.float64)
    if wanted.ndim != 1 or not ((wanted >= 0) & (wanted <= 1)).all():
        raise UsageError(f"Inspected shares {list(shares)} are not all in [0, 1].", "The usual ones are .1 to .9.")
    order = inspection_order(values)
    starts = np.flatnonzero(np.r_[True, np.diff(values[order]) != 0])  # of each group of ties
    own = np.ones((1, len(values)))
    auc, recall = _curves(own, marked, order, starts, wanted)
    drawn_auc, drawn_recall = [], []
    rng = hashed_rng("noisy labels", seed, len(values), int(marked.sum()))
    for start in range(0, num_bootstrap, _DRAWS_AT_ONCE):
        weights = _weights(rng, marked, min(_DRAWS_AT_ONCE, num_bootstrap - start))
        some_auc, some_recall = _curves(weights, marked, order, starts, wanted)
        drawn_auc.append(some_auc)
        drawn_recall.append(some_recall)
    ends = np.full((2, 1 + len(wanted)), np.nan)
    if num_bootstrap:
        drawn = np.column_stack([np.concatenate(drawn_auc), np.concatenate(drawn_recall)])
        ends = np.percentile(drawn, [2.5, 97.5], axis=0)
    return Detection(
        float(auc[0]),
        float(ends[0, 0]),
        float(ends[1, 0]),
        wanted,
        recall[0],
        ends[0, 1:],
        ends[1, 1:],
        int(marked.sum()),
        len(values),
        len(starts) == 1,
    )


def _curves(
    weights: np.ndarray, marked: np.ndarray, order: np.ndarray, starts: np.ndarray, shares: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return AUC ``[B]`` and recall ``[B, x]`` where example i counts ``weights[b, i]`` times."""
    first = np.zeros((len(weights), 1))
    found = np.hstack([first, np.add.reduceat((weights * marked)[:, order], starts, axis=1).cumsum(1)])
    wrong = np.hstack([first, np.add.reduceat((weights * ~marked)[:, order], starts, axis=1).cumsum(1)])
    seen = found + wrong
    recall = found / found[:, -1:]
    # The ROC curve is straight across a group of ties: that is what counting them half means.
    area = (np.diff(wrong, axis=1) * (recall[:, 1:] + recall[:, :-1]) / 2).sum(1) / wrong[:, -1]
    at = np.stack([np.interp(shares * all_[-1], all_, own) for all_, own in zip(seen, recall, strict=True)])
    return area, at


def _weights(rng: np.random.Generator, marked: np.ndarray, num: int) -> np.ndarray:
    """Return how often each example is drawn, ``[num, n]``; flipped and clean ones keep their numbers."""
    result = np.empty((num, len(marked)))
    for group in (marked, ~marked):
        size = int(group.sum())
        result[:, group] = rng.multinomial(size, np.full(size, 1 / size), size=num)
    return result


def _checked(values: np.ndarray) -> np.ndarray:
    checked = np.asarray(values, dtype=np.float64)
    if checked.ndim != 1:
        raise UsageError(f"Self-influence has shape {checked.shape}.", "Give one value per training example, [n].")
    bad = ~np.isfinite(checked)
    if bad.any():
        raise NumericalError(
            f"{int(bad.sum())} of {len(bad)} self-influences are not finite (first: position {int(bad.argmax())}).",
            "Use a larger λ; small eigenvalues are amplified beyond float32.",
        )
    return checked


def _checked_pair(values: np.ndarray, flipped: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    checked, marked = _checked(values), np.asarray(flipped).astype(bool)
    if marked.shape != checked.shape:
        raise UsageError(
            f"{marked.size} marks of flipped labels are given for {checked.size} training examples.", "Give one each."
        )
    if not marked.any() or marked.all():
        raise DataError(
            f"{int(marked.sum())} of {len(marked)} labels are flipped.",
            "Detection needs flipped and clean examples; take a task with noisy labels.",
        )
    return checked, marked
