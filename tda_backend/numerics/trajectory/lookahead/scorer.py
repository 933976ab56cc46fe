"""K-step look-ahead scores: what dropping an example from its batch does to the held-out loss K steps later.

The score of z in step t of a window that ends after step e is (METHODS.md §6; derived here)

    s(z; t) = −∇L_val(θ_e)ᵀ A_e … A_{t+1} R_t g_z,   g_z = ∇ℓ_z / |B_t|,

the first-order rise of L_val at the window's end if z is taken out of step t: **positive helps, keep it**. R_t is the
optimizer's response to a change of the gradient, A the transition of (θ, state) with the batch's curvature. The first
step of a window looks K steps ahead, the last one 1. K = 1 is online selection, a window over the whole run offline.

The other strategies are the same loop with another score: gradient alignment takes ∇L_val(θ_{t−1})·g_z before the
step, which knows nothing of the optimizer; random draws; full data keeps everything.

A score is exact for one example; what is kept is decided by many at once. Measured on MNIST (6 000 candidates, 30 %
wrong labels, MLP 784-16-16-10, AdamW 0.003, batch 64, one epoch): keeping half, the scores of a window predict its real
gain poorly, and with the wrong sign at K = 10 (−4.0 predicted over the run, +1.3 came), so that K = 1 is best; keeping
.9, K = 10 gains 55 % of what is predicted and the longest windows are as good as K = 1, at a quarter of the cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import jvp

from tda_backend.errors import NumericalError
from tda_backend.finite import all_finite
from tda_backend.numerics.trajectory.lookahead.strategy import RANDOM, Strategy
from tda_backend.numerics.trajectory.unrolled.objective import Objective
from tda_backend.numerics.trajectory.unrolled.optimizers import SGD, Optimizer
from tda_backend.numerics.trajectory.unrolled.point import Point
from tda_backend.numerics.trajectory.unrolled.snapshots import snapshot_interval
from tda_backend.seeds import hashed_rng

_CHUNK = 1000
"""Held-out examples whose gradient is taken together."""


class PlannedStep(NamedTuple):
    """One step of a run that is yet to be taken.

    Attributes:
        number: t, from 1.
        rows: Candidates of its batch, ``[b]``.
        rate: η.
    """

    number: int
    rows: Tensor
    rate: float


@dataclass
class Counts:
    """Work done so far, in examples; grows as it is passed around.

    Attributes:
        gradients: Gradients of an example's loss.
        products: Products of an example's second derivative with one vector.
        slopes: Derivatives of an example's loss along one direction.
    """

    gradients: int = 0
    products: int = 0
    slopes: int = 0

    @property
    def in_gradients(self) -> float:
        """All work in gradients, by operations: forward 1, backward 2; a slope 2, a Hessian product 6 of 3 each."""
        return self.gradients + 2 * self.products + 2 / 3 * self.slopes


class _Taken(NamedTuple):
    """A step of the window on all candidates: where it started and its gradient."""

    step: PlannedStep
    theta: Tensor
    state: Tensor
    gradient: Tensor


class Scorer:
    """Scores the candidates of a window.

    Args:
        candidates: Loss of the examples to choose from.
        held_out: Loss of the selection set; all its examples count.
        optimizer: Of the training.
        strategy: What to compute.
        seed: Of the run; decides random draws.
        budget_gib: What the states inside a window may take; what does not fit is recomputed from snapshots.

    Attributes:
        candidates: As given.
        optimizer: As given.
        counts: Work done so far.
        reached: θ at the end of the last window that was looked ahead through, ``[P]``.
    """

    def __init__(
        self,
        candidates: Objective,
        held_out: Objective,
        optimizer: Optimizer,
        strategy: Strategy,
        seed: int,
        budget_gib: float = 1.0,
    ) -> None:
        self.candidates, self.optimizer, self._held_out = candidates, optimizer, held_out
        self._strategy, self._seed, self._budget = strategy, seed, budget_gib
        self.counts = Counts()
        self.reached: Tensor | None = None

    def scores(self, window: Sequence[PlannedStep], theta: Tensor, state: Tensor) -> list[Tensor] | None:
        """Return each step's scores ``[b]``, larger = rather keep; ``None`` where all are kept anyway.

        Args:
            window: The steps, in order.
            theta: Parameters before the first, ``[P]``.
            state: Optimizer's state before the first, ``[s, P]``.

        Raises:
            NumericalError: A score is not finite.
            MachineError: The window does not fit into the budget, even with most steps recomputed.
        """
        strategy = self._strategy
        if strategy.share == 1:
            return None
        if strategy.kind == RANDOM:
            draws = [hashed_rng("random selection", self._seed, step.number).random(len(step.rows)) for step in window]
            found = [torch.from_numpy(draw) for draw in draws]
        elif strategy.kind == "alignment":
            ahead = self._held_out_gradient(theta)
            found = [self._slopes(theta, step.rows, ahead) / len(step.rows) for step in window]
        else:
            found = self._look_ahead(window, theta, state)
        for step, values in zip(window, found, strict=True):
            if not all_finite(values):
                raise NumericalError(
                    f"Scores of step {step.number} are not finite: training within the window diverged.",
                    "Lower the learning rate, or look fewer steps ahead.",
                )
        return found

    def _look_ahead(self, window: Sequence[PlannedStep], theta: Tensor, state: Tensor) -> list[Tensor]:
        stride = self._stride(len(window), theta, state)
        starts = []
        taken: list[_Taken] = []
        for first in range(0, len(window), stride):
            starts.append((theta, state))
            taken, theta, state = self._forward(window[first : first + stride], theta, state)
        sgd = self._strategy.assume == "sgd"
        u = theta.new_zeros(1, 1 + (0 if sgd else self.optimizer.num_slots), len(theta))
        self.reached = theta
        u[0, 0] = self._held_out_gradient(theta)
        found: list[Tensor] = []
        while starts:
            first = (len(starts) - 1) * stride
            before = starts.pop()
            if not taken:
                taken = self._forward(window[first : first + stride], *before)[0]
            while taken:
                last = taken.pop()
                found.append(self._back(last, u, needed=bool(taken or starts)))
        return found[::-1]

    def _forward(
        self, window: Sequence[PlannedStep], theta: Tensor, state: Tensor
    ) -> tuple[list[_Taken], Tensor, Tensor]:
        taken = []
        for step in window:
            gradient = self.candidates.mean_gradient(theta, step.rows)
            self.counts.gradients += len(step.rows)
            taken.append(_Taken(step, theta, state, gradient))
            theta, state = self.optimizer.update(theta, state, gradient, step.rate, step.number)
        return taken, theta, state

    def _back(self, taken: _Taken, u: Tensor, needed: bool) -> Tensor:
        """Return a step's scores and take ``u`` back to before the step, where that is needed."""
        step, theta = taken.step, taken.theta
        cov = self._point(taken).pull_(u)  # u is now before the step, but for the curvature
        values = self._slopes(theta, step.rows, cov[0]) / -len(step.rows)
        if needed and self._strategy.curvature != "none":
            u[:, 0] += self.candidates.curvature_product(theta, step.rows, cov, self._strategy.curvature)
            self.counts.products += len(step.rows)
        return values

    def _point(self, taken: _Taken) -> Point:
        optimizer = self.optimizer
        if self._strategy.assume == "sgd":  # as SGD-influence: same η and decay, neither moments nor clipping
            optimizer = SGD(weight_decay=optimizer.weight_decay, decoupled=optimizer.decoupled)
        state = taken.state[: optimizer.num_slots]
        return optimizer.point(taken.theta, state, taken.gradient, taken.step.rate, taken.step.number)

    def _slopes(self, theta: Tensor, rows: Tensor, direction: Tensor) -> Tensor:
        """Return ∇ℓ_z·direction of each example, ``[b]``: one forward pass, no gradient per example."""
        self.counts.slopes += len(rows)
        return jvp(lambda flat: self.candidates.losses(flat, rows), (theta,), (direction,))[1]

    def _held_out_gradient(self, theta: Tensor) -> Tensor:
        rows = torch.arange(self._held_out.num_examples, device=theta.device)
        self.counts.gradients += len(rows)
        total = torch.zeros_like(theta)
        for part in rows.split(_CHUNK):
            total.add_(self._held_out.mean_gradient(theta, part), alpha=len(part) / len(rows))
        return total

    def _stride(self, steps: int, theta: Tensor, state: Tensor) -> int:
        each = (2 * theta.numel() + state.numel()) * theta.element_size()  # θ, its gradient and the state
        interval = snapshot_interval(steps, each, self._budget)
        return steps if interval == 1 else interval
