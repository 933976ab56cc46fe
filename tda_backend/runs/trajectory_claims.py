"""The comparisons that claims about unrolled runs and look-ahead selection make."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tda_backend.evaluation.claims import Comparison, Measured, difference, level, ratio
from tda_backend.runs.lookahead_steps import complete_runs, stored_runs
from tda_backend.runs.trajectory_study import ALL_STEPS, LOOKING_AHEAD
from tda_backend.store.artifacts import Artifact
from tda_backend.trajectory.unrolled.selection_gain import TunedSetting, paired_difference, tune
from tda_backend.trajectory.unrolled.selection_results import SelectionRun


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
    artifact, name = summaries[rate], f"{words} at η={rate:g}"
    if what not in artifact.manifest["measured"]:  # too few examples: nothing to compare
        return Measured(name, float("nan"), np.full(len(artifact.array("draws")), np.nan))
    number = artifact.manifest["measured"].index(what)
    draws = np.asarray(artifact.array("draws"))[:, number]
    return Measured(name, float(artifact.array("values")[number]), draws)


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
        level(_measured(summaries, rate, what, f"{name} correlation of proxy and real error"), claim["bound"])
        for rate in claim["learning_rates"]
        for what, name in (("proxy", "Spearman"), ("proxy pearson", "Pearson"))
    ]


def _growth(claim: Mapping[str, Any], summaries: Mapping[float, Artifact]) -> list[Comparison]:
    rates = sorted(claim["learning_rates"])
    if claim["along"] == "length":
        words = "relative error of the examples seen first, after the {} steps"
        ends = [
            [_measured(summaries, rate, f"growth {end}", words.format(end)) for end in ("last", "first")]
            for rate in rates
        ]
        return [difference(last, first, claim["bound"]) for last, first in ends]
    errors = [_measured(summaries, rate, "error last", "relative error at the end") for rate in rates]
    return [difference(large, small, claim["bound"]) for large, small in zip(errors[1:], errors[:-1], strict=True)]


def _selection(claim: Mapping[str, Any], artifacts: Sequence[Artifact]) -> list[Comparison]:
    named, _ = complete_runs([pair for artifact in artifacts for pair in stored_runs(artifact)])

    def tuned(item: Mapping[str, Any]) -> tuple[str, TunedSetting | None]:
        runs = [run for name, run in named if name == item["strategy"] and _looks(run, item.get("horizon"))]
        if not runs:
            return f"test loss of {item['strategy']} (a run diverged)", None
        (found,) = tune(runs).values()
        chosen = found.chosen
        reach = "" if item["strategy"] not in LOOKING_AHEAD else f", K={chosen.strategy.horizon or 'T'}"
        return f"test loss of {item['strategy']}{reach}, η={chosen.learning_rate:g}", chosen

    left_name, left = tuned(claim["left"][0])
    comparisons = []
    for item in claim["right"]:
        right_name, right = tuned(item)
        losses = [math.nan if side is None else side.test_loss for side in (right, left)]
        value, low, high = losses[0] - losses[1], math.nan, math.nan
        if left is not None and right is not None and len(left.runs) > 1:
            gain = paired_difference(left.runs, right.runs)
            value, low, high = gain.mean, gain.low, gain.high
        comparisons.append(
            Comparison(right_name, losses[0], "−", left_name, losses[1], value, low, high, claim["bound"], True)
        )
    return comparisons


def _looks(run: SelectionRun, horizon: int | str | None) -> bool:
    """Return whether a run looks that far ahead; a horizon beyond the run's end is the whole run."""
    if horizon is None:
        return True
    wanted = run.num_steps if horizon == ALL_STEPS else min(int(horizon), run.num_steps)
    return run.strategy.window(run.num_steps) == wanted
