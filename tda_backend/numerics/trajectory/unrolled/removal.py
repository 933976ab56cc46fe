"""Ground truth of unrolling: the run repeated without one example, many such runs as one stacked model (METHODS §6).

Trajectory-specific leave-one-out (TSLOO, arXiv 2605.18814): initialisation, batches and rates stay as recorded, and
example z has weight 0. Its batch keeps its divisor |B| (``fixed``, what unrolling linearises) or is averaged over what
remains of it (``smaller``).

A run without z *is* the recorded run until z is first seen, so each model starts there: from (θ_t, s_t).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tda_backend.errors import NumericalError, UsageError
from tda_backend.numerics.trajectory.unrolled.joining import Progress, Removals, as_rows
from tda_backend.numerics.trajectory.unrolled.queries import Queries
from tda_backend.numerics.trajectory.unrolled.trajectory import Trajectory

Variant = Literal["fixed", "smaller"]
VARIANTS: tuple[Variant, ...] = ("fixed", "smaller")
_MEMORY = 2**30
"""Bytes that the states of the models side by side may take."""


@dataclass(frozen=True)
class RemovalEffects:
    """What leaving out each example did to the evaluation examples; positive = the example helped.

    Attributes:
        rows: The R removed rows of the training split, in the order asked for.
        effects: At the end, ``[R, m]``: loss without z − loss with it (of goodness: with − without).
        horizons: Numbers of steps after which the means were taken, ``[H]``.
        at_horizons: Means over the evaluation examples, ``[H, R]``; 0 before z is first seen.
        base: Loss or goodness of the recorded run at its end, ``[m]``.
        base_at_horizons: Its means, ``[H]``.
        first_steps: The step (from 1) that first sees each row, ``[R]``.
        variant: What became of the batch's divisor.
    """

    rows: Tensor
    effects: Tensor
    horizons: tuple[int, ...]
    at_horizons: Tensor
    base: Tensor
    base_at_horizons: Tensor
    first_steps: Tensor
    variant: Variant


def removal_effects(
    trajectory: Trajectory,
    removed_rows: Sequence[int] | Tensor,
    queries: Queries,
    *,
    variant: Variant = "fixed",
    horizons: Sequence[int] | None = None,
    chunk: int | None = None,
    on_progress: Progress | None = None,
) -> RemovalEffects:
    """Return what training without each of R examples, one at a time, does to m evaluation examples.

    Effects of one example are differences of nearly equal losses: record in float64.

    Args:
        trajectory: The recorded run.
        removed_rows: R rows of the training split; an example may occur at several steps, and several times in one.
        queries: The evaluation examples, m, and whether their loss or goodness is asked for.
        variant: ``fixed`` keeps the divisor of z's batches; ``smaller`` averages over what remains. A batch that held
            nothing but z has gradient 0 then, and the optimizer still takes its step (momentum and decay go on).
        horizons: After how many steps the means are taken besides the end's effects; ``None``: only after the last.
        chunk: Runs side by side; ``None``: what fits into 1 GiB.
        on_progress: Called after every step of every chunk.

    Raises:
        UsageError: A row is not trained on, a horizon is out of range, or a name is not known.
        NumericalError: A run without an example diverged (names it).
    """
    if variant not in VARIANTS:
        raise UsageError(
            f'Variant "{variant}" with quantity "{queries.quantity}".',
            "Variants: fixed, smaller. Quantities: loss, goodness.",
        )
    points = as_rows(queries.rows)
    theta = trajectory.final_theta
    each = theta.numel() * theta.element_size() * (1 + trajectory.optimizer.num_slots)
    removals = Removals.of(trajectory, removed_rows, horizons, max(1, _MEMORY // each) if chunk is None else chunk)
    evaluation, of_loss = trajectory.objective_of(queries.split), queries.quantity == "loss"
    values, sign = (evaluation.losses, 1.0) if of_loss else (evaluation.goodness, -1.0)
    base = values(theta, points)
    base_marks = base.new_full((len(removals.horizons),), torch.nan)
    effects = base.new_empty(len(removals.rows), len(points))
    at_marks = base.new_zeros(len(removals.horizons), len(removals.rows))
    for group, report in removals.walks(on_progress):
        runs = _Runs(trajectory, removals.rows[group], removals.first_steps[group], variant)
        for step, base_theta in runs.walk():
            for number in removals.marks(step):
                whole = values(base_theta, points)
                found = sign * (values(runs.theta[: runs.active], points) - whole)
                at_marks[number, group[: runs.active]] = found.mean(dim=1)
                base_marks[number] = whole.mean()
            report(step)
        effects[group] = sign * (values(runs.theta, points) - base)
    for number in (number for number, value in enumerate(base_marks.tolist()) if value != value):
        for recorded in trajectory.forward(removals.horizons[number] + 1, removals.horizons[number] + 1):
            base_marks[number] = values(recorded.theta, points).mean()
    _check_finite(effects, removals.rows)
    return RemovalEffects(
        removals.rows, effects, removals.horizons, at_marks, base, base_marks, removals.first_steps, variant
    )


class _Runs:
    """The runs without each of some examples, stacked; one that has not joined is not computed.

    Args:
        trajectory: The recorded run.
        rows: Removed rows ``[C]``, in the order of their first steps.
        firsts: Their first steps ``[C]``.
        variant: As :func:`removal_effects`.

    Attributes:
        theta: ``[C, P]``, of which the first ``active`` mean something.
        active: How many have joined.
    """

    def __init__(self, trajectory: Trajectory, rows: Tensor, firsts: Tensor, variant: Variant) -> None:
        self._trajectory, self._rows, self._firsts, self._variant = trajectory, rows, firsts, variant
        self._optimizer, self._objective = trajectory.optimizer, trajectory.objective
        like = trajectory.final_theta
        self.theta = like.new_empty(len(rows), like.numel())
        self._state = like.new_empty(len(rows), self._optimizer.num_slots, like.numel())
        self.active = 0

    def walk(self) -> Iterator[tuple[int, Tensor]]:
        """Take all steps from the first that sees an example; yield (t, θ of the recorded run after step t)."""
        optimizer, last = self._optimizer, self._trajectory.num_steps
        for recorded in self._trajectory.forward(int(self._firsts[0])):
            if recorded.step > int(self._firsts[0]):
                yield recorded.step - 1, recorded.theta
            joined = int((self._firsts <= recorded.step).sum())
            self.theta[self.active : joined] = recorded.theta
            self._state[self.active : joined] = recorded.state
            self.active = joined
            weights = self._weights(recorded.rows)
            gradients = self._objective.weighted_gradients(self.theta[:joined], recorded.rows, weights)
            self.theta[:joined], self._state[:joined] = optimizer.update(
                self.theta[:joined], self._state[:joined], gradients, recorded.rate, recorded.step
            )
        yield last, self._trajectory.final_theta

    def _weights(self, rows: Tensor) -> Tensor:
        """Return the weight of each example of a batch in each run, ``[active, b]``."""
        kept = (rows[None, :].cpu() != self._rows[: self.active, None]).to(self.theta)
        if self._variant == "fixed":
            return kept / len(rows)
        return kept / kept.sum(dim=1, keepdim=True).clamp(min=1)


def _check_finite(effects: Tensor, rows: Tensor) -> None:
    bad = ~torch.isfinite(effects).all(dim=1)
    if bool(bad.any()):
        raise NumericalError(
            f"Training without row {int(rows[bad][0])} (and {int(bad.sum()) - 1} others) gave losses that are not "
            "finite.",
            "Lower the learning rate, or clip gradients.",
        )
