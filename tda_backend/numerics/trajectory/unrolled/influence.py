"""Influence by unrolling a recorded run: one backward sweep for many queries, through the optimizer that trained it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from tda_backend.blocks import block_size
from tda_backend.errors import NumericalError, UsageError
from tda_backend.finite import all_finite
from tda_backend.models.training.run import reproducible
from tda_backend.numerics.trajectory.unrolled.objective import BATCH_CURVATURES, BatchCurvature
from tda_backend.numerics.trajectory.unrolled.optimizers import SGD, Optimizer
from tda_backend.numerics.trajectory.unrolled.point import Point
from tda_backend.numerics.trajectory.unrolled.queries import Queries
from tda_backend.numerics.trajectory.unrolled.trajectory import RecordedStep, Trajectory

Assume = Literal["as trained", "sgd"]
"""Through which optimizer a run is unrolled: its own, or plain SGD with its learning rates and decay."""
ASSUMPTIONS: tuple[Assume, ...] = get_args(Assume)
_HELD_NUMBERS = 2**28
"""Numbers of query states held at once (1 GiB of float32); more queries take further walks."""
_GROUP_NUMBERS = 2**21
"""Numbers of query gradients differentiated together: small groups cost Python, large ones fall out of the caches."""
_BLOCK_NUMBERS = 2**19
"""Numbers of query states that pass the optimizer together: 2 MiB of float32 stay in the cache from pass to pass."""


@dataclass(frozen=True)
class Variant:
    """One way to unroll a run.

    Attributes:
        assume: ``as trained`` or ``sgd``.
        curvature: What stands for the batch's second derivative H_t.
    """

    assume: Assume = "as trained"
    curvature: BatchCurvature = "hessian"


@dataclass(frozen=True)
class UnrolledInfluence:
    """What one sweep gives; positive helps.

    Attributes:
        scores: Predicted change on removing an example from every batch that it was in, with |B| kept: of the loss
            (how much it would rise) or of goodness (how much it would fall), ``[m, n]``. Columns as
            ``trajectory.train_indices``; not scaled by n.
        traces: For the examples asked for, what removing them at step t alone would do, ``[T, m, k]``; for a step
            whose batch did not hold the example, what taking it out by weight −1/|B| would do. ``None`` if not asked.
        trace_rows: Those examples: rows of the train split, ``[k]``.
    """

    scores: Tensor
    traces: Tensor | None
    trace_rows: tuple[int, ...]


def unrolled_influence(
    trajectory: Trajectory,
    queries: Queries,
    variant: Variant = Variant(),
    *,
    query_chunk: int | None = None,
    trace_rows: Sequence[int] = (),
    on_progress: Callable[[int, int], None] | None = None,
) -> UnrolledInfluence:
    """Return the influence of every training example on every query; :func:`unrolled_influences` with one variant."""
    found = unrolled_influences(
        trajectory, queries, [variant], query_chunk=query_chunk, trace_rows=trace_rows, on_progress=on_progress
    )
    return found[variant]


def unrolled_influences(
    trajectory: Trajectory,
    queries: Queries,
    variants: Sequence[Variant],
    *,
    query_chunk: int | None = None,
    trace_rows: Sequence[int] = (),
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[Variant, UnrolledInfluence]:
    """Return optimizer-aware influence: AdamW-influence and its like for other optimizers (arXiv 2605.18814).

    Row vectors U = (U_θ, U_slots) start as (∇L(z'; θ_T), 0) and run back through t = T … 1 of the recorded run:

        cov = U R_t,    score(z', z) −= cov·∇ℓ_z(θ_t)/|B_t|  for z in B_t,    U ← U·(transition) + cov·H_t on U_θ

    with R_t and the transition those of the optimizer's own update (:class:`Point`; METHODS.md §6). For goodness U_θ
    starts as −∇goodness. ``sgd`` is SGD-influence, Δθ = Σ_t η_t W_t g_z with W_t = Π_{s>t}(I − η_s H_s): it looks at
    the same θ_t, η_t and decay, and at neither moments nor clipping. All variants share one walk.

    Args:
        trajectory: A recorded run.
        queries: Whose goodness or loss is asked for, m.
        variants: How to unroll; those that occur twice are computed once.
        query_chunk: Queries that share one walk; ``None``: as many as fit into 1 GiB (2 GiB in float64).
        trace_rows: Rows of the train split to follow through all steps.
        on_progress: Called after every step with (done, total).

    Returns:
        By variant, in the run's dtype, on the CPU.

    Raises:
        UsageError: A query, row or variant out of range.
        TaskError: ``gauss-newton`` without ``outputs`` and ``output_loss`` of the task.
        NumericalError: Numbers grew beyond all bounds; names the step.
    """
    chosen = _checked(variants, query_chunk)
    objective = trajectory.objective_of(queries.split)
    rows = _rows(queries, objective.num_examples)
    follow = _Columns(trajectory, trace_rows)
    each = (1 + trajectory.optimizer.num_slots) * trajectory.num_parameters * len(chosen)
    size = query_chunk or block_size(max(1, min(len(rows), _HELD_NUMBERS // each)))
    parts = rows.split(size)
    sweeps = {
        variant: _Sweep(variant, _optimizer(trajectory.optimizer, variant), follow, len(rows)) for variant in chosen
    }
    with reproducible(objective.device):  # one thread: many small products gain nothing from more, and bits stay
        for number, part in enumerate(parts):
            start = _starting_point(trajectory, replace(queries, rows=part))
            for sweep in sweeps.values():
                sweep.begin(start, number * size)
            for done, step in enumerate(trajectory.backward(), start=1 + number * trajectory.num_steps):
                gradients = trajectory.objective.example_gradients(step.theta, step.rows)
                traced = follow.gradients(step)
                for sweep in sweeps.values():
                    sweep.step(trajectory, step, gradients, traced)
                if on_progress is not None:
                    on_progress(done, trajectory.num_steps * len(parts))
    return {variant: sweep.result() for variant, sweep in sweeps.items()}


class _Columns:
    """Where each trained row's column is, and which rows are followed through all steps."""

    def __init__(self, trajectory: Trajectory, trace_rows: Sequence[int]) -> None:
        self.trajectory = trajectory
        self.rows = tuple(int(row) for row in trace_rows)
        for row in self.rows:
            trajectory.steps_of(row)  # raises for a row that was not trained on
        indices = trajectory.train_indices
        places = np.full(int(indices.max()) + 1, -1)
        places[indices] = np.arange(len(indices))
        self.places = torch.from_numpy(places)

    def gradients(self, step: RecordedStep) -> Tensor | None:
        """Return gradients of the followed rows at a step's θ, ``[k, P]``."""
        if not self.rows:
            return None
        rows = torch.tensor(self.rows)
        return self.trajectory.objective.example_gradients(step.theta, rows)


class _Sweep:
    """One variant's row vectors on their way back."""

    def __init__(self, variant: Variant, optimizer: Optimizer, columns: _Columns, num_queries: int) -> None:
        self._variant, self._optimizer, self._columns = variant, optimizer, columns
        trajectory = columns.trajectory
        shape = (num_queries, len(trajectory.train_indices))
        self._scores = torch.zeros(shape, dtype=trajectory.final_theta.dtype)
        steps = (trajectory.num_steps, num_queries, len(columns.rows))
        self._traces = torch.zeros(steps, dtype=self._scores.dtype) if columns.rows else None
        self._u = torch.empty(0)
        self._first = 0

    def begin(self, start: Tensor, first: int) -> None:
        """Start with the queries from number ``first`` on, whose gradients are ``start`` ``[q, P]``."""
        self._first = first
        self._u = start.new_zeros(len(start), 1 + self._optimizer.num_slots, start.shape[1])
        self._u[:, 0] = start

    def step(self, trajectory: Trajectory, step: RecordedStep, gradients: Tensor, traced: Tensor | None) -> None:
        """Add the contributions of one step and pass it."""
        state = step.state[: self._optimizer.num_slots]
        point = self._optimizer.point(step.theta, state, gradients.mean(dim=0), step.rate, step.step)
        columns = self._columns.places[step.rows]
        curved = step.step > 1 and self._variant.curvature != "none"  # what lies before the first step looks at nothing
        group = max(1, _GROUP_NUMBERS // step.theta.numel())
        for start in range(0, len(self._u), group):
            part = self._u[start : start + group]
            rows = slice(self._first + start, self._first + start + len(part))
            cov = _pull(point, part)
            found = (cov @ gradients.T).div_(-len(step.rows)).cpu()
            self._check_finite(found, step, trajectory.num_steps)
            self._scores[rows, columns] += found
            if traced is not None and self._traces is not None:
                self._traces[step.step - 1, rows] = (cov @ traced.T).div_(-len(step.rows)).cpu()
            if curved:
                kind = self._variant.curvature
                part[:, 0] += trajectory.objective.curvature_product(step.theta, step.rows, cov, kind)

    def _check_finite(self, found: Tensor, step: RecordedStep, num_steps: int) -> None:
        if not all_finite(found):
            raise NumericalError(
                f'Unrolling "{self._variant.assume}" with curvature {self._variant.curvature} leaves the range of '
                f"numbers at step {step.step} of {num_steps}.",
                "The linearised run is unstable: lower the learning rate, shorten the run, or record in float64.",
            )

    def result(self) -> UnrolledInfluence:
        """Return what was added up."""
        return UnrolledInfluence(self._scores, self._traces, self._columns.rows)


def _pull(point: Point, u: Tensor) -> Tensor:
    """Return cov of all of ``u`` ``[q, 1+s, P]``, written over by what is passed on; in blocks that the caches hold."""
    block = max(1, _BLOCK_NUMBERS // u[0].numel())
    if block >= len(u):
        return point.pull_(u)
    cov = u.new_empty(len(u), u.shape[2])
    for start in range(0, len(u), block):
        cov[start : start + block] = point.pull_(u[start : start + block])
    return cov


def _optimizer(own: Optimizer, variant: Variant) -> Optimizer:
    if variant.assume == "as trained":
        return own
    return SGD(weight_decay=own.weight_decay, decoupled=own.decoupled)


def _starting_point(trajectory: Trajectory, queries: Queries) -> Tensor:
    """Return ∇L of each query at θ_T, ``[q, P]``, where L is the loss or minus goodness."""
    objective, rows = trajectory.objective_of(queries.split), torch.as_tensor(queries.rows)
    if queries.quantity == "loss":
        return objective.example_gradients(trajectory.final_theta, rows)
    return objective.example_gradients(trajectory.final_theta, rows, "goodness").neg()


def _checked(variants: Sequence[Variant], query_chunk: int | None) -> list[Variant]:
    if not variants:
        raise UsageError("No way to unroll is named.", "Give at least one Variant.")
    for variant in variants:
        if variant.assume not in ASSUMPTIONS or variant.curvature not in BATCH_CURVATURES:
            raise UsageError(
                f'There is no unrolling by "{variant.assume}" with curvature "{variant.curvature}".',
                f"By: {', '.join(ASSUMPTIONS)}; curvature: {', '.join(BATCH_CURVATURES)}.",
            )
    if query_chunk is not None and query_chunk < 1:
        raise UsageError(f"query_chunk is {query_chunk}.", "Give at least 1, or None.")
    return list(dict.fromkeys(variants))


def _rows(queries: Queries, num_examples: int) -> Tensor:
    rows = torch.as_tensor(np.asarray(queries.rows), dtype=torch.long)
    if rows.ndim != 1 or len(rows) == 0:
        raise UsageError("There are no queries.", "Give at least one index.")
    if int(rows.min()) < 0 or int(rows.max()) >= num_examples:
        bad = int(rows[(rows < 0) | (rows >= num_examples)][0])
        raise UsageError(f"Query index {bad} is out of range.", f"Allowed: 0…{num_examples - 1}.")
    return rows
