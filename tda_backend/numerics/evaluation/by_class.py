"""LDS per class of the query, and the class-balanced mean: every class counts the same, however many queries it has.

    class-balanced LDS = (1/|classes|) Σ_c mean over queries of class c of LDS(query)

Only the queries are divided; subsets and scores stay as they are. A class without a defined query is left out and named
by NaN. Intervals are 95 % over draws of subsets (METHODS §7), the same draws for every class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tda_backend.errors import UsageError
from tda_backend.numerics.evaluation.bootstrap import RankBootstrap, multinomial_weights, ranks, standardised
from tda_backend.numerics.evaluation.comparison import lds_from_ranks


@dataclass(frozen=True)
class LDSByClass:
    """LDS of one configuration at one λ, by the class of the query.

    Attributes:
        classes: Class labels, ascending, ``[G]``.
        num_queries: Queries with a defined LDS in each class, ``[G]``.
        mean: ``[G]``; NaN where no query is defined.
        ci_low: ``[G]``.
        ci_high: ``[G]``.
        balanced: Mean over classes.
        balanced_low: Lower end of its interval.
        balanced_high: Upper end.
        plain: Mean over queries, for comparison.
    """

    classes: np.ndarray
    num_queries: np.ndarray
    mean: np.ndarray
    ci_low: np.ndarray
    ci_high: np.ndarray
    balanced: float
    balanced_low: float
    balanced_high: float
    plain: float


def lds_by_class(
    predicted: np.ndarray,
    target: np.ndarray,
    labels: Sequence[int] | np.ndarray,
    *,
    num_bootstrap: int = 1000,
    seed: int = 0,
) -> LDSByClass:
    """Return LDS per class and its class-balanced mean, with intervals over draws of subsets.

    Args:
        predicted: ``[S, m]`` ranks of predicted subset sums (any multiple of them).
        target: ``[S, m]`` retrained goodness.
        labels: ``[m]`` class of each query.
        num_bootstrap: Draws B; 0 leaves the intervals NaN.
        seed: Seed of the draws.

    Raises:
        UsageError: Shapes do not match, or no query is defined.
        DataError: A target is not finite.
    """
    of_query = np.asarray(labels)
    per_query = lds_from_ranks(predicted, target)
    if of_query.shape != per_query.shape:
        raise UsageError(f"{of_query.size} labels are given for {per_query.size} queries.", "Give one per query.")
    defined = np.isfinite(per_query)
    if not defined.any():
        raise UsageError("The LDS is undefined for every query.", "Check that the scores are not all zero.")
    classes = np.unique(of_query)
    member = (of_query == classes[:, None]).astype(np.float64)  # [G, m]
    mean = _class_means(per_query[None], defined[None], member)[0]
    low, high = np.full((2, len(classes)), np.nan)
    balanced_low = balanced_high = np.nan
    if num_bootstrap:
        weights = multinomial_weights(len(predicted), num_bootstrap, seed)
        bootstrap = RankBootstrap(ranks(np.asarray(target, dtype=np.float64)), weights)
        drawn = _class_means(*bootstrap.correlations(standardised(predicted)), member)
        present = np.isfinite(drawn).any(0)
        low[present], high[present] = np.nanpercentile(drawn[:, present], [2.5, 97.5], axis=0)
        # A draw that leaves a class undefined would be a mean over other classes: it is left out.
        whole = drawn[np.isfinite(drawn[:, np.isfinite(mean)]).all(1)][:, np.isfinite(mean)]
        if len(whole):
            balanced_low, balanced_high = (float(end) for end in np.percentile(whole.mean(1), [2.5, 97.5]))
    return LDSByClass(
        classes,
        (member @ defined).astype(int),
        mean,
        low,
        high,
        float(np.nanmean(mean)),
        balanced_low,
        balanced_high,
        float(np.nanmean(per_query)),
    )


def _class_means(values: np.ndarray, defined: np.ndarray, member: np.ndarray) -> np.ndarray:
    """Return the mean over the defined queries of each class, ``[B, G]``."""
    totals = np.where(defined, values, 0.0) @ member.T
    counts = defined.astype(np.float64) @ member.T
    return np.divide(totals, counts, out=np.full(totals.shape, np.nan), where=counts > 0)
