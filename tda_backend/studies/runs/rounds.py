"""Rounds of retraining: a study with ``ground_truth.until`` retrains until its LDS is known well enough.

A round is the plan of the study with so many subsets as its retraining has come to, up to the evaluation of its
configurations; from the widest interval follows how many subsets the next one has. What a round has made, the next one
finds. The last one goes on to the end: its plan is that of a study that asks for just so many subsets. Records of
earlier rounds stay, with their evaluations, until the study is removed: a run that is started again follows them to
where the last one stopped, and computes nothing of them.

Stopping on the width makes the interval a little too narrow: :mod:`tda_backend.numerics.evaluation.stopping`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import pandas as pd

from tda_backend.errors import ArtifactError, TDAError
from tda_backend.numerics.evaluation.stopping import next_subsets, widest_half_width
from tda_backend.studies.pipeline.executor import incomplete
from tda_backend.studies.pipeline.outcome import Outcome
from tda_backend.studies.pipeline.plan import Plan
from tda_backend.studies.pipeline.step import Step
from tda_backend.studies.runs.planning import build_plan
from tda_backend.studies.runs.record import Round
from tda_backend.studies.steps.evaluate import Evaluate
from tda_backend.studies.steps.train import FIRST_CHUNK, NEXT_CHUNK
from tda_backend.studies.store.artifacts import ArtifactStore
from tda_backend.studies.store.tables.evaluation import LDS

Attempt = Callable[[Plan, Mapping[str, TDAError]], Outcome]
"""Computes what can be computed of a plan, but for steps that have failed before, by key."""


@dataclass(frozen=True)
class Judgement:
    """How well the LDS of a study is known after a round.

    Attributes:
        num_subsets: That were retrained at each α.
        half_width: Of the widest interval.
        until: Wanted.
        most: Subsets that are retrained at most.
    """

    num_subsets: int
    half_width: float
    until: float
    most: int

    @property
    def is_reached(self) -> bool:
        """Whether every LDS is known as well as is wanted."""
        return self.half_width <= self.until

    @property
    def is_last(self) -> bool:
        """Whether retraining ends here."""
        return self.is_reached or self.num_subsets >= self.most

    @property
    def following(self) -> int:
        """Subsets of the next round."""
        return next_subsets(self.num_subsets, self.half_width, self.until, NEXT_CHUNK, self.most)

    @property
    def sentence(self) -> str:
        """What was found, and what follows from it."""
        known = f"LDS known to ±{self.half_width:.3g} after {self.num_subsets} subsets"
        aim = f"±{self.until:g}"
        if self.is_reached:
            return f"{known}: the aim of {aim} is reached."
        if self.is_last:
            return f"{known}, the most that ground_truth.subsets allows: the aim of {aim} is not reached."
        return f"{known} (aim {aim}): {self.following - self.num_subsets} more."


def last_round(whole: Plan, store: ArtifactStore) -> Plan | None:
    """Return the plan with which a study ends, as far as stored results tell it.

    Args:
        whole: The plan of the study with the most subsets.
        store: Where results lie.

    Returns:
        The plan; ``None`` while it depends on intervals that nobody has measured.
    """
    if whole.study.ground_truth.until is None:
        return whole
    plan, judgement = _present(whole, store)
    is_known = plan.num_subsets == whole.study.ground_truth.subsets or (judgement is not None and judgement.is_last)
    return plan if is_known else None


def is_open(plan: Plan, store: ArtifactStore) -> bool:
    """Return whether retraining may stop before a study has as many subsets as its plan."""
    truth = plan.study.ground_truth
    return truth.until is not None and plan.num_subsets == truth.subsets and last_round(plan, store) is None


def execute_rounds(
    whole: Plan, attempt: Attempt, store: ArtifactStore, say: Callable[[str], None] = lambda sentence: None
) -> Outcome:
    """Compute a study: round after round where it retrains until its LDS is known, else at once.

    Args:
        whole: The plan of the study with the most subsets.
        attempt: Computes a plan.
        store: Where results lie.
        say: Told after each round how well the LDS is known.

    Raises:
        IncompleteError: Some steps cannot be computed; all others are kept.
        TDAError: As ``attempt``.
    """
    done: Outcome | None = None
    failed: Mapping[str, TDAError] = {}
    plan, judgement = (whole, None) if whole.study.ground_truth.until is None else _present(whole, store)
    while plan.num_subsets < whole.study.ground_truth.subsets and not (judgement is not None and judgement.is_last):
        outcome = attempt(replace(plan, now=_judged_keys(plan)), failed)
        done, failed = _together(done, outcome), {**failed, **outcome.failed}
        judgement = judged(plan, store)
        if judgement is None:
            break  # nothing could be evaluated: more subsets would not help
        if not judgement.is_last:
            say(judgement.sentence)
            plan = _following(plan, judgement)
            judgement = None
    done = _together(done, attempt(plan, failed))
    if done.failed:
        raise incomplete(plan, done)
    if (judgement := judged(plan, store)) is not None:
        say(judgement.sentence)
    return done


def judged(plan: Plan, store: ArtifactStore) -> Judgement | None:
    """Return how well the LDS is known by the evaluations that are stored.

    Args:
        plan: Of a round.
        store: Where results lie.

    Returns:
        ``None``: the study does not ask, or nothing is evaluated.
    """
    truth = plan.study.ground_truth
    frames = []
    for step in _evaluations(plan):
        with contextlib.suppress(ArtifactError):  # absent or damaged: the next run computes it
            if store.usable(step.key):
                frames.append(store.open(step.key).table(LDS.name).to_pandas())
    if truth.until is None or not frames:
        return None
    return Judgement(plan.num_subsets, widest_half_width(pd.concat(frames)), truth.until, truth.subsets)


def _together(before: Outcome | None, outcome: Outcome) -> Outcome:
    return outcome if before is None else before.followed_by(outcome)


def _present(whole: Plan, store: ArtifactStore) -> tuple[Plan, Judgement | None]:
    """Return the round to go on with, and its judgement if it was judged.

    A round is over when all of it is evaluated; or when the next one has been planned, if something of it failed.
    """
    plan = build_plan(whole.study, whole.facts, whole.device, Round(min(FIRST_CHUNK, whole.study.ground_truth.subsets)))
    while (judgement := judged(plan, store)) is not None:
        is_whole = all(store.usable(step.key) for step in _evaluations(plan))
        if judgement.is_last:
            return plan, judgement if is_whole else None
        following = _following(plan, judgement)
        if not is_whole and not store.usable(following.key):
            return plan, None
        plan = following
    return plan, None


def _following(plan: Plan, judgement: Judgement) -> Plan:
    return build_plan(plan.study, plan.facts, plan.device, Round(judgement.following, plan.key))


def _evaluations(plan: Plan) -> Iterator[Step]:
    """Yield the evaluations by all subsets of a plan; not the preview, which is by the first ones alone."""
    for step in plan.steps:
        if isinstance(step, Evaluate) and step.num_subsets == plan.num_subsets:
            yield step


def _judged_keys(plan: Plan) -> frozenset[str]:
    """Return the keys of a plan's evaluations and of all that they are made of."""
    keys: set[str] = set()
    waiting: list[Step] = list(_evaluations(plan))
    while waiting:
        step = waiting.pop()
        if step.key not in keys:
            keys.add(step.key)
            waiting.extend(step.all_inputs())
    return frozenset(keys)
