"""How wrong the linear prediction of a removal is, to second order and without retraining (METHODS §6; derived here).

Give example z the weight 1 − w along the recorded batches: θ_T becomes a curve θ(w) with θ(0) recorded and θ(1) the
run without z. With δ = dθ/dw and δ² = d²θ/dw² at w = 0, the loss of an evaluation example changes by

    ∇ℓᵀδ        what influence predicts (positive = z helps),
    ½·δᵀ∇²ℓδ    the cheap proxy of its error: the bend of the loss alone,
    ½·[δᵀ∇²ℓδ + ∇ℓᵀδ²]    the full proxy E₂: all of the second order.

Both states go forward through the linearised optimizer (:class:`Point`) from

    δg  = H_tδθ − (c/|B|)∇ℓ_z,
    δ²g = H_tδ²θ + ∇³L_t[δθ, δθ] − 2(c/|B|)∇²ℓ_z δθ,      c = how often the batch holds z.

E₂ is no bound: it is the next term of a series, and says where the linear prediction starts to fail. Where E₂ is as
large as the prediction itself, the series says no more than that: Adam's first steps divide gradients by their own
size, so that a coordinate with |g| ≪ |∇ℓ_z|/|B| has a second derivative without bound though its step is at most η.
Measured on 784-16-16-10 with GELU, AdamW 1e-3, 94 steps, 200 removals: six examples, all of the first two steps, have
|E₂| > ½·|prediction|. With them the Pearson correlation of E₂ with the real error is .51 (Spearman .89), without .92
(.99), and there adding E₂ takes the prediction's relative error from .069 to .009 (:meth:`ErrorProxies.is_small`).
The ½ was chosen on that run (with 1 the correlation is .15). Three runs it was not chosen on, all examples and those
kept: .92 and .92 (GELU, another seed), .35 and .99 (GELU, 1e-4), −.16 and .80 (tanh, a third seed); relative error of
those kept from .07–.10 to .003–.027.

With ReLU in place of GELU the proxy does not follow the error at all (|r| < .02 at 1e-3, 1e-4 and 1e-5, one seed). The
derivatives are right there too (with weight 1 − w and w ≤ 1e-3 the run does what is predicted), but from w = .03 on the
error no longer shrinks with w: most likely activations that flip, whose kinks no derivative at one point knows of.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tda_backend.errors import NumericalError, UsageError
from tda_backend.numerics.trajectory.unrolled.joining import Progress, Removals, as_rows
from tda_backend.numerics.trajectory.unrolled.objective import Objective
from tda_backend.numerics.trajectory.unrolled.point import Point
from tda_backend.numerics.trajectory.unrolled.queries import Queries
from tda_backend.numerics.trajectory.unrolled.trajectory import RecordedStep, Trajectory

_MEMORY = 2**30
"""Bytes that first- and second-order states side by side may take."""
_CACHED = 2**19
"""Numbers of one vector per example that are worked on together: more falls out of the caches."""


@dataclass(frozen=True)
class ErrorProxies:
    """The linear prediction of each removal and the proxies of its error, all in units of the loss.

    Attributes:
        rows: The R removed rows of the training split, in the order asked for.
        prediction: First order, ``[R, m]``; positive = the example helps. Equal to what the backward sweep gives.
        cheap: ½·δᵀ∇²ℓδ, ``[R, m]``.
        full: E₂, ``[R, m]``. The real error is (loss without z − loss with z) − prediction.
        horizons: Numbers of steps after which the means were taken, ``[H]``.
        prediction_at: Means over the evaluation examples, ``[H, R]``; 0 before z is first seen.
        cheap_at: ``[H, R]``.
        full_at: ``[H, R]``.
        first_steps: The step (from 1) that first sees each row, ``[R]``.
    """

    rows: Tensor
    prediction: Tensor
    cheap: Tensor
    full: Tensor
    horizons: tuple[int, ...]
    prediction_at: Tensor
    cheap_at: Tensor
    full_at: Tensor
    first_steps: Tensor

    def is_small(self, share: float = 0.5) -> Tensor:
        """Return where mean |E₂| ≤ share · mean |prediction| over the evaluation examples, bool ``[R]``.

        Elsewhere the second order is no correction of the first: neither is to be trusted. Needs no retraining.
        """
        return small_proxy(self.full, self.prediction, share)


def small_proxy(full: Tensor, prediction: Tensor, share: float = 0.5) -> Tensor:
    """Return where mean |E₂| ≤ share · mean |prediction| over the last axis; see :meth:`ErrorProxies.is_small`."""
    return full.abs().mean(dim=-1) <= share * prediction.abs().mean(dim=-1)


def error_proxies(
    trajectory: Trajectory,
    removed_rows: Sequence[int] | Tensor,
    queries: Queries,
    *,
    horizons: Sequence[int] | None = None,
    chunk: int | None = None,
    on_progress: Progress | None = None,
) -> ErrorProxies:
    """Return the prediction and the error proxies of R removals for m evaluation examples, by one forward pass.

    The path of one example, how its effect builds up step by step, is ``horizons=range(1, T + 1)`` with one row.

    Args:
        trajectory: The recorded run; float64, since the second derivative of 1/√v̂ leaves the range of float32.
        removed_rows: R rows of the training split; an example may occur at several steps, and several times in one.
        queries: The evaluation examples, m; of quantity ``loss``.
        horizons: After how many steps the means are taken besides the end's values; ``None``: only after the last.
        chunk: Examples side by side; ``None``: what fits into 1 GiB.
        on_progress: Called after every step of every chunk.

    Raises:
        UsageError: A row is not trained on, a horizon is out of range, or goodness is asked for.
        NumericalError: A state is not finite (names the example).
    """
    if queries.quantity != "loss":
        raise UsageError("The error of predicted goodness has no proxy.", 'Ask for quantity "loss".')
    points = as_rows(queries.rows)
    theta = trajectory.final_theta
    each = 2 * theta.numel() * theta.element_size() * (1 + trajectory.optimizer.num_slots)
    removals = Removals.of(trajectory, removed_rows, horizons, max(1, _MEMORY // each) if chunk is None else chunk)
    evaluation = trajectory.objective_of(queries.split)
    ends = [theta.new_empty(len(removals.rows), len(points)) for _ in range(3)]
    means = [theta.new_zeros(len(removals.horizons), len(removals.rows)) for _ in range(3)]
    for group, report in removals.walks(on_progress):
        states = _States(trajectory, removals.rows[group], removals.first_steps[group])
        for step, at in states.walk():
            if step in removals.horizons and step < trajectory.num_steps:
                found = states.means(evaluation, at, points)
                for number in removals.marks(step):
                    for mean, value in zip(means, found, strict=True):
                        mean[number, group[: states.active]] = value
            report(step)
        for end, mean, value in zip(ends, means, states.values(evaluation, theta, points), strict=True):
            end[group] = value
            for number in removals.marks(trajectory.num_steps):
                mean[number, group] = value.mean(dim=1)
    _check_finite(ends[2], removals.rows)
    (prediction, cheap, full), (prediction_at, cheap_at, full_at) = ends, means
    return ErrorProxies(
        removals.rows,
        prediction,
        cheap,
        full,
        removals.horizons,
        prediction_at,
        cheap_at,
        full_at,
        removals.first_steps,
    )


class _States:
    """First- and second-order states of some removals; one whose example was not seen yet is 0 and not computed.

    Args:
        trajectory: The recorded run.
        rows: Removed rows ``[C]``, in the order of their first steps.
        firsts: Their first steps ``[C]``.

    Attributes:
        first: δ of (θ, slots), ``[C, 1+s, P]``.
        second: δ², ``[C, 1+s, P]``.
        active: How many have been seen.
    """

    def __init__(self, trajectory: Trajectory, rows: Tensor, firsts: Tensor) -> None:
        self._trajectory, self._rows, self._firsts = trajectory, rows, firsts
        like = trajectory.final_theta
        shape = (len(rows), 1 + trajectory.optimizer.num_slots, like.numel())
        self.first, self.second = like.new_zeros(shape), like.new_zeros(shape)
        self.active = 0

    def walk(self) -> Iterator[tuple[int, Tensor]]:
        """Go through all steps from the first that sees an example; yield (t, θ of the recorded run after step t)."""
        trajectory, start = self._trajectory, int(self._firsts[0])
        for recorded in trajectory.forward(start):
            if recorded.step > start:
                yield recorded.step - 1, recorded.theta
            self._advance(recorded)
        yield trajectory.num_steps, trajectory.final_theta

    def values(self, evaluation: Objective, theta: Tensor, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return prediction, cheap and full proxy at every point, ``[C, m]`` each."""
        change, bend = self.first[:, 0], self.second[:, 0]
        prediction, cheap, full = (theta.new_empty(len(change), len(points)) for _ in range(3))
        size = max(1, _MEMORY // (theta.numel() * theta.element_size()))
        for places in torch.arange(len(points)).split(size):
            slopes = evaluation.example_gradients(theta, points[places])
            prediction[:, places] = change @ slopes.T
            cheap[:, places] = 0.5 * evaluation.second_differences(theta, points[places], change)
            full[:, places] = cheap[:, places] + 0.5 * (bend @ slopes.T)
        return prediction, cheap, full

    def means(self, evaluation: Objective, theta: Tensor, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the means over the points of prediction, cheap and full proxy, ``[active]`` each."""
        change, bend = self.first[: self.active, 0], self.second[: self.active, 0]
        slope = evaluation.mean_gradient(theta, points)
        cheap = 0.5 * evaluation.second_differences(theta, points, change).mean(dim=1)
        return change @ slope, cheap, cheap + 0.5 * (bend @ slope)

    def _advance(self, recorded: RecordedStep) -> None:
        trajectory = self._trajectory
        objective, rows, theta = trajectory.objective, recorded.rows, recorded.theta
        self.active = int((self._firsts <= recorded.step).sum())
        gradient = objective.mean_gradient(theta, rows)
        point = trajectory.optimizer.point(theta, recorded.state, gradient, recorded.rate, recorded.step)
        counts = (rows[None, :].cpu() == self._rows[: self.active, None]).sum(dim=1)
        for block in torch.arange(self.active).split(max(1, _CACHED // theta.numel())):
            self._advance_block(point, recorded, slice(int(block[0]), int(block[-1]) + 1), counts[block])

    def _advance_block(self, point: Point, recorded: RecordedStep, block: slice, counts: Tensor) -> None:
        objective, rows, theta = self._trajectory.objective, recorded.rows, recorded.theta
        first, second = self.first[block], self.second[block]
        before = int((self._firsts[block] < recorded.step).sum())  # the others' states are still 0
        gradient, gradient_second = torch.zeros_like(first[:, 0]), torch.zeros_like(first[:, 0])
        if before:
            found = objective.curve_gradients(theta, rows, first[:before, 0], second[:before, 0])
            gradient[:before], gradient_second[:before] = found
        held = counts.nonzero()[:, 0]
        if len(held):
            shares = (counts[held].to(theta) / len(rows))[:, None]
            removed = self._rows[block][held].to(rows.device)
            gradient[held] -= shares * objective.example_gradients(theta, removed)
            bends = objective.example_hessian_products(theta, removed, first[held, 0])
            gradient_second[held] -= 2 * shares * bends
        self.second[block] = point.push_second(first, second, gradient, gradient_second)
        self.first[block] = point.push(first, gradient)


def _check_finite(full: Tensor, rows: Tensor) -> None:
    bad = ~torch.isfinite(full).all(dim=1)
    if bool(bad.any()):
        raise NumericalError(
            f"The second-order state of row {int(rows[bad][0])} (and {int(bad.sum()) - 1} others) is not finite.",
            "Record the run in float64, or with a lower learning rate.",
        )
