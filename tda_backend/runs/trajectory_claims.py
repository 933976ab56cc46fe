"""The comparisons that claims about unrolled runs and look-ahead selection make."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tda_backend.evaluation.claims import Comparison, Measured, difference, level, ratio
from tda_backend.runs.lookahead_steps import stored_runs
from tda_backend.runs.trajectory_study import ALL_STEPS, LOOKING_AHEAD
from tda_backend.store.artifacts import Artifact
from tda_backend.trajectory.unrolled.selection_gain import TunedSetting, paired_difference, tune


def compare_trajectory(claim: Mapping[str, Any], artifacts: Sequence[Artifact]) -> list[Comparison]:
    """Return the comparisons that a claim makes.

    Args:
        claim: One of ``TRAJECTORY_CHECKS``.
        artifacts: Summaries of every learning rate; or all look-ahead runs.
    """
    if claim["check"] == "selection":
        return _selection(claim, artifacts)
    summaries = {float(artifact.manifest["learning_rate"]): artifact for artifact in artifacts}
    kinds: dict[str, Callable[..., list[Comparison]]] = {"matched": _matched, "error-grows": _growth, "proxy": _proxy}
    return kinds[claim["check"]](claim, summaries)


def _measured(summaries: Mapping[float, Artifact], rate: float, what: str, words: str) -> Measured:
    """Return a number of a summary with its draws over removed examples, which all learning rates share."""
    artifact = summaries[rate]
    number = artifact.manifest["measured"].index(what)
    draws = np.asarray(artifact.array("draws"))[:, number]
    return Measured(f"{words} at η={rate:g}", float(artifact.array("values")[number]), draws)


def _matched(claim: Mapping[str, Any], summaries: Mapping[float, Artifact]) -> list[Comparison]:
    return [
        _times_better(
            _measured(summaries, rate, "matched", "Spearman as trained"),
            _measured(summaries, rate, "mismatched", "Spearman assuming SGD"), claim["bound"],
        )
        for rate in claim["learning_rates"]
    ]  # fmt: skip


def _times_better(left: Measured, right: Measured, bound: float) -> Comparison:
    """Compare left / right with a lower bound, where the right side may be near 0.

    A draw with right ≤ 0 < left is better by any factor: it takes the place of the largest factor that has a value,
    which leaves the lower end of the interval exact.
    """
    found = ratio(left, right, bound)
    above, unbounded = right.draws > 0, (right.draws <= 0) & (left.draws > 0)
    if not above.any() or not unbounded.any() or not (above | unbounded).all():
        return found
    ratios = np.divide(left.draws, right.draws, out=np.zeros(len(above)), where=above)
    ratios[unbounded] = ratios.max()
    low, high = np.percentile(ratios, (2.5, 97.5))
    return replace(found, low=float(low), high=float(high))


def _proxy(claim: Mapping[str, Any], summaries: Mapping[float, Artifact]) -> list[Comparison]:
    return [
        level(_measured(summaries, rate, "proxy", "Spearman of proxy and real error"), claim["bound"])
        for rate in claim["learning_rates"]
    ]


def _growth(claim: Mapping[str, Any], summaries: Mapping[float, Artifact]) -> list[Comparison]:
    def error(rate: float, end: str) -> Measured:
        return _measured(summaries, rate, f"error {end}", f"relative error after the {end} steps")

    rates = sorted(claim["learning_rates"])
    if claim["along"] == "length":
        return [difference(error(rate, "last"), error(rate, "first"), claim["bound"]) for rate in rates]
    pairs = zip(rates[1:], rates[:-1], strict=True)
    return [difference(error(large, "last"), error(small, "last"), claim["bound"]) for large, small in pairs]


def _selection(claim: Mapping[str, Any], artifacts: Sequence[Artifact]) -> list[Comparison]:
    named = [pair for artifact in artifacts for pair in stored_runs(artifact)]

    def tuned(item: Mapping[str, Any]) -> tuple[str, TunedSetting]:
        horizon = item.get("horizon")
        runs = [
            run for name, run in named
            if name == item["strategy"]
            and (horizon is None or run.strategy.horizon == (None if horizon == ALL_STEPS else horizon))
        ]  # fmt: skip
        (found,) = tune(runs).values()
        chosen = found.chosen
        reach = "" if item["strategy"] not in LOOKING_AHEAD else f", K={chosen.strategy.horizon or 'T'}"
        return f"test loss of {item['strategy']}{reach}, η={chosen.learning_rate:g}", chosen

    left_name, left = tuned(claim["left"][0])
    comparisons = []
    for item in claim["right"]:
        right_name, right = tuned(item)
        if len(left.runs) > 1:
            gain = paired_difference(left.runs, right.runs)
            value, low, high = gain.mean, gain.low, gain.high
        else:
            value, low, high = right.test_loss - left.test_loss, math.nan, math.nan
        comparisons.append(
            Comparison(
                right_name, right.test_loss, "−", left_name, left.test_loss, value, low, high, claim["bound"], True
            )
        )
    return comparisons
