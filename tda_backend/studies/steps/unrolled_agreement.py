"""How predictions of unrolled runs agree with the truth: Spearman's correlation over removed examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tda_backend.numerics.evaluation.agreement import (
    Estimate,
    MatchingGain,
    RankAgreement,
    effect_agreement,
    matching_gain,
    mean_agreement,
)
from tda_backend.numerics.trajectory.unrolled.removal import VARIANTS
from tda_backend.studies.steps.unrolled_errors import Draws
from tda_backend.studies.steps.unrolled_results import Results
from tda_backend.studies.store.artifact import Artifact
from tda_backend.studies.store.artifacts import ArtifactWriter
from tda_backend.studies.store.tables.trajectory import TRAJECTORY_AGREEMENT, TRAJECTORY_GAINS

AS_TRAINED, SGD = "as trained", "sgd"
"""The optimizer that a prediction assumes."""


class Pair(NamedTuple):
    """What is held against what.

    Attributes:
        assumed: The optimizer that the prediction assumes.
        curvature: The prediction's.
        truth: How the true effect is taken.
    """

    assumed: str
    curvature: str
    truth: str


Agreements = Mapping[Pair, RankAgreement]


@dataclass(frozen=True)
class Size:
    """How much is compared.

    Attributes:
        num_removed: R.
        num_queries: m.
    """

    num_removed: int
    num_queries: int


def agreements_of(results: Results, draws: Draws) -> Agreements:
    """Return how every prediction of one run agrees with every truth."""
    return {
        Pair(variant.assume, variant.curvature, truth): effect_agreement(
            results.predicted(number), results.truth.effects(truth), num_bootstrap=draws.number, seed=draws.seed
        )
        for number, variant in enumerate(results.variants)
        for truth in VARIANTS
    }


def mean_agreements(runs: Sequence[Artifact], pairs: Sequence[Pair]) -> Agreements:
    """Return the mean over the runs' seeds of every agreement."""
    stacked = [list(zip(run.array("agreement_points"), run.array("agreement_draws"), strict=True)) for run in runs]
    return {pair: mean_agreement([_restored(*each[number]) for each in stacked]) for number, pair in enumerate(pairs)}


def _restored(points: np.ndarray, draws: np.ndarray) -> RankAgreement:
    known = points[~np.isnan(points)]
    value = float(known.mean()) if len(known) else float("nan")
    return RankAgreement(points, Estimate(value, np.nan, np.nan, draws), draws, int(np.isnan(points).sum()))


def write_agreements(writer: ArtifactWriter, agreements: Agreements, size: Size) -> None:
    """Store the agreements, and what each prediction gains over the one that assumes SGD."""
    rows = [
        {
            "assumed": pair.assumed,
            "curvature": pair.curvature,
            "variant": pair.truth,
            "mean": each.mean.value,
            "ci_low": each.mean.low,
            "ci_high": each.mean.high,
            **vars(size),
            "num_undefined": each.num_undefined,
        }
        for pair, each in agreements.items()
    ]
    writer.table("trajectory_agreement", TRAJECTORY_AGREEMENT.rows(rows))
    gains = [
        {
            "curvature": pair.curvature,
            "variant": pair.truth,
            **_gain_row(matching_gain(agreements[pair._replace(assumed=AS_TRAINED)], each)),
        }
        for pair, each in agreements.items()
        if pair.assumed == SGD
    ]
    writer.table("trajectory_gains", TRAJECTORY_GAINS.rows(gains))


def _gain_row(gain: MatchingGain) -> dict[str, float]:
    return {
        "matched": gain.matched,
        "mismatched": gain.mismatched,
        "difference": gain.difference.value,
        "difference_low": gain.difference.low,
        "difference_high": gain.difference.high,
        "ratio": gain.ratio.value,
        "ratio_low": gain.ratio.low,
        "ratio_high": gain.ratio.high,
    }
