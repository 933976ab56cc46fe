"""Ground truth of unrolling: the run repeated without one example, many such runs as one stacked model (METHODS §6).

Trajectory-specific leave-one-out (TSLOO, arXiv 2605.18814): initialisation, batches and rates stay as recorded, and
example z has weight 0. Its batch keeps its divisor |B| (``fixed``, what unrolling linearises) or is averaged over what
remains of it (``smaller``).

A run without z *is* the recorded run until z is first seen, so each model starts there: from (θ_t, s_t).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from tda_backend.errors import NumericalError, UsageError
from tda_backend.trajectory.unrolled.objective import Objective

if TYPE_CHECKING:
    from tda_backend.trajectory.unrolled.recording import Trajectory

Variant = Literal["fixed", "smaller"]
VARIANTS: tuple[Variant, ...] = ("fixed", "smaller")
Quantity = Literal["loss", "goodness"]
Progress = Callable[[int, int], None]
"""Called with the steps done and in total."""
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
    evaluation: Objective,
    evaluation_rows: Sequence[int] | Tensor,
    *,
    variant: Variant = "fixed",
    horizons: Sequence[int] | None = None,
    quantity: Quantity = "loss",
    chunk: int | None = None,
    on_progress: Progress | None = None,
) -> RemovalEffects:
    """Return what training without each of R examples, one at a time, does to m evaluation examples.

    Effects of one example are differences of nearly equal losses: record in float64.

    Args:
        trajectory: The recorded run.
        removed_rows: R rows of the training split; an example may occur at several steps, and several times in one.
        evaluation: The split of the evaluation examples, in the trajectory's precision.
        evaluation_rows: m rows of it.
        variant: ``fixed`` keeps the divisor of z's batches; ``smaller`` averages over what remains. A batch that held
            nothing but z has gradient 0 then, and the optimizer still takes its step (momentum and decay go on).
        horizons: After how many steps the means are taken besides the end's effects; ``None``: only after the last.
        quantity: ``loss`` is the training loss.
        chunk: Runs side by side; ``None``: what fits into 1 GiB.
        on_progress: Called after every step of every chunk.

    Raises:
        UsageError: A row is not trained on, a horizon is out of range, or a name is not known.
        NumericalError: A run without an example diverged (names it).
    """
    if variant not in VARIANTS or quantity not in ("loss", "goodness"):
        raise UsageError(
            f'Variant "{variant}" with quantity "{quantity}".', "Variants: fixed, smaller. Quantities: loss, goodness."
        )
    rows, points = as_rows(removed_rows), as_rows(evaluation_rows)
    marks = checked_horizons(horizons, trajectory.num_steps)
    firsts = first_steps(trajectory, rows)
    theta = trajectory.final_theta
    each = theta.numel() * theta.element_size() * (1 + trajectory.optimizer.num_slots)
    groups = joining_groups(firsts, max(1, _MEMORY // each) if chunk is None else chunk)
    values = evaluation.losses if quantity == "loss" else evaluation.goodness
    sign = 1.0 if quantity == "loss" else -1.0
    base = values(theta, points)
    base_marks = base.new_full((len(marks),), torch.nan)
    effects, at_marks = base.new_empty(len(rows), len(points)), base.new_zeros(len(marks), len(rows))
    total = sum(trajectory.num_steps + 1 - int(firsts[group[0]]) for group in groups)
    done = 0
    for group in groups:
        runs = _Runs(trajectory, rows[group], firsts[group], variant)
        start = int(firsts[group[0]])
        for step, base_theta in runs.walk():
            for number in (number for number, mark in enumerate(marks) if mark == step):
                whole = values(base_theta, points)
                found = sign * (values(runs.theta[: runs.active], points) - whole)
                at_marks[number, group[: runs.active]] = found.mean(dim=1)
                base_marks[number] = whole.mean()
            if on_progress is not None:
                on_progress(done + step - start + 1, total)
        effects[group] = sign * (values(runs.theta, points) - base)
        done += trajectory.num_steps + 1 - start
    for number in (number for number, value in enumerate(base_marks.tolist()) if value != value):
        for recorded in trajectory.forward(marks[number] + 1, marks[number] + 1):
            base_marks[number] = values(recorded.theta, points).mean()
    _check_finite(effects, rows)
    return RemovalEffects(rows, effects, marks, at_marks, base, base_marks, firsts, variant)


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


def as_rows(rows: Sequence[int] | Tensor) -> Tensor:
    """Return row numbers as int64 ``[R]`` on the CPU.

    Raises:
        UsageError: There are none, or they are not a list of whole numbers.
    """
    found = torch.as_tensor(rows).cpu()
    if found.ndim != 1 or not len(found) or found.is_floating_point() or found.dtype == torch.bool:
        raise UsageError(f"Rows of shape {tuple(found.shape)} and type {found.dtype}.", "Give a list of row numbers.")
    return found.long()


def checked_horizons(horizons: Sequence[int] | None, num_steps: int) -> tuple[int, ...]:
    """Return horizons in the order given; those of ``None`` are the last step alone.

    Raises:
        UsageError: One is outside 1…T.
    """
    marks = (num_steps,) if horizons is None else tuple(int(mark) for mark in horizons)
    if any(not 1 <= mark <= num_steps for mark in marks):
        raise UsageError(f"Horizons {list(marks)} of a run of {num_steps} steps.", f"Give numbers in 1…{num_steps}.")
    return marks


def first_steps(trajectory: Trajectory, rows: Tensor) -> Tensor:
    """Return the step (from 1) whose batch first holds each row, int64 ``[R]``.

    Raises:
        UsageError: The run did not train on a row.
    """
    return torch.tensor([trajectory.steps_of(row)[0] for row in rows.tolist()])


def joining_groups(firsts: Tensor, size: int) -> list[Tensor]:
    """Return positions into ``firsts`` in groups of at most ``size``, those that are seen early first.

    Raises:
        UsageError: The size is below 1.
    """
    if size < 1:
        raise UsageError(f"{size} runs side by side.", "At least 1 is needed.")
    return list(torch.argsort(firsts, stable=True).split(size))


def _check_finite(effects: Tensor, rows: Tensor) -> None:
    bad = ~torch.isfinite(effects).all(dim=1)
    if bool(bad.any()):
        raise NumericalError(
            f"Training without row {int(rows[bad][0])} (and {int(bad.sum()) - 1} others) gave losses that are not "
            "finite.",
            "Lower the learning rate, or clip gradients.",
        )
