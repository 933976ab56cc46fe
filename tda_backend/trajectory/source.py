"""SOURCE: influence through approximate unrolling of the training run, segment by segment (arXiv 2405.12186)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from tda_backend.attribution.explicit import curvature_matrix
from tda_backend.errors import UsageError
from tda_backend.features.kronecker import FISHERS, Fisher
from tda_backend.features.layers import UntrackedPolicy
from tda_backend.features.streaming import Quantity
from tda_backend.solvers.pseudo_gradients import CurvatureKind, check_curvature
from tda_backend.spectral.contraction import ScoreMatrix
from tda_backend.training.fit import model_from, row_numbers
from tda_backend.trajectory.gradients import FlatLayout, GradientLayout, LayerLayout, flat_layout, layer_layout
from tda_backend.trajectory.preconditioned import Preconditioner, preconditioned_decay, preconditioned_operator
from tda_backend.trajectory.segments import State, TrainingSegment, naming, segment_states
from tda_backend.trajectory.source_kronecker import (
    kronecker_operator,
    preconditioned_kronecker_operator,
    segment_curvature,
)
from tda_backend.trajectory.walk import SegmentOperator, dense_operator, walk
from tda_backend.types import Batch, Task

Basis = Literal["ekfac", "kfac", "diagonal", "exact"]
BASES: tuple[Basis, ...] = ("ekfac", "kfac", "diagonal", "exact")

_QUERY_NUMBERS = 2**26
"""Numbers (256 MiB of float32) in one set of queries; about four sets of that size are held at once."""
_GRADIENT_NUMBERS = 2**24
"""Numbers (64 MiB of float32) in one block of per-example gradients."""


@dataclass(frozen=True)
class SourceFit:
    """The curvature of every segment of one run; serves any queries.

    Attributes:
        task: Whose measurement and loss are differentiated.
        data: ``train`` and ``test`` splits.
        segments: In order of time.
        checkpoints: (label, model on the device) of each checkpoint of each segment.
        operators: What each segment does to a query.
        layout: The coordinates of gradients.
        final_model: At the end of the run.
        train_indices: Rows of the train split to score, ``[n]``.
        query_numbers: Numbers in one set of queries.
        gradient_numbers: Numbers in one block of per-example gradients.
    """

    task: Task
    data: Mapping[str, Batch]
    segments: tuple[TrainingSegment, ...]
    checkpoints: tuple[tuple[tuple[str, nn.Module], ...], ...]
    operators: tuple[SegmentOperator, ...]
    layout: GradientLayout
    final_model: nn.Module
    train_indices: Tensor
    query_numbers: int = _QUERY_NUMBERS
    gradient_numbers: int = _GRADIENT_NUMBERS

    def scores(
        self, query_indices: Sequence[int] | Tensor, on_progress: Callable[[int, int], None] | None = None
    ) -> ScoreMatrix:
        """Return n × the first-order loss of goodness on removal, ``[m, n]``; positive helps.

        Args:
            query_indices: Rows of the test split, m.
            on_progress: Called after every segment of every set of queries with (done, total).

        Raises:
            UsageError: No query.
            NumericalError: A gradient or a response is not finite; names the checkpoint or the segment.
        """
        return ScoreMatrix(self._scores(query_indices, {"": slice(None)}, on_progress)[""])

    def layer_scores(
        self, query_indices: Sequence[int] | Tensor, on_progress: Callable[[int, int], None] | None = None
    ) -> dict[str, ScoreMatrix]:
        """Return the scores' part of each layer; their sum is :meth:`scores`. Kronecker curvature has blocks.

        Raises:
            UsageError: As :meth:`scores`; or the exact curvature, which couples all layers.
        """
        if not isinstance(self.layout, LayerLayout):
            raise UsageError("The exact curvature has no blocks.", 'Use basis "ekfac", "kfac" or "diagonal".')
        parts = self._scores(query_indices, self.layout.columns, on_progress)
        return {name: ScoreMatrix(values) for name, values in parts.items()}

    def _scores(
        self,
        query_indices: Sequence[int] | Tensor,
        blocks: Mapping[str, slice],
        on_progress: Callable[[int, int], None] | None,
    ) -> dict[str, Tensor]:
        queries = torch.as_tensor(query_indices, dtype=torch.long)
        if len(queries) == 0:
            raise UsageError("There are no queries.", "Give at least one index.")
        everyone = torch.arange(len(self.train_indices))
        scores = {name: torch.zeros(len(queries), len(everyone), dtype=torch.float64) for name in blocks}
        parts = queries.split(self._size(self.query_numbers))
        start, done = 0, 0
        for part in parts:
            rows = slice(start, start + len(part))
            start = rows.stop
            query = self._final_gradients("test", part, "goodness")
            for index, response in walk(self.operators, query):
                for columns, gradients in self._segment_gradients(index, everyone, response):
                    for name, block in blocks.items():
                        products = (response[:, block] @ gradients[:, block].T).cpu().to(torch.float64)
                        scores[name][rows, columns] -= products * self._weight(index)
                done += 1
                if on_progress is not None:
                    on_progress(done, len(parts) * len(self.operators))
        dtype = next(self.final_model.parameters()).dtype
        return {name: values.to(dtype) for name, values in scores.items()}

    def self_influence(self) -> Tensor:
        """Return each example's score on its own loss (goodness −ℓ at the end of the run), ``[n]`` float64."""
        result = torch.zeros(len(self.train_indices), dtype=torch.float64)
        for part in torch.arange(len(self.train_indices)).split(self._size(self.gradient_numbers)):
            query = -self._final_gradients("train", self.train_indices[part], "train_loss")
            for index, response in walk(self.operators, query):
                for columns, gradients in self._segment_gradients(index, part, response):
                    own = (response[columns - part[0]] * gradients).sum(1)
                    result[columns] -= own.cpu().to(torch.float64) * self._weight(index)
        return result

    def _segment_gradients(self, index: int, positions: Tensor, like: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (positions in ``train_indices``, gradients ``[b, p]`` summed over checkpoints) of the segment's own.

        The gradients lie in a buffer that the next ones overwrite.
        """
        members = self.segments[index].data_indices
        if members is not None:
            inside = np.isin(self.train_indices[positions].numpy(), np.asarray(members))
            positions = positions[torch.from_numpy(inside)]
        if len(positions) == 0:
            return
        size = min(self._size(self.gradient_numbers), len(positions))
        buffer = like.new_empty(size, like.shape[1])
        for part in positions.split(size):
            total = buffer[: len(part)].zero_()
            for label, model in self.checkpoints[index]:
                with naming(label):
                    rows = self.train_indices[part]
                    self.layout.add_gradients(
                        total, model, self.data["train"], rows, "train_loss", self.operators[index]
                    )
            yield part, total

    def _final_gradients(self, split: str, rows: Tensor, quantity: Quantity) -> Tensor:
        with naming("the end of the run"):
            return self.layout.gradients(self.final_model, self.data[split], rows, quantity, self.operators[-1])

    def _weight(self, index: int) -> float:
        """Return n/N_ℓ over the number of checkpoints whose gradients were summed."""
        members, count = self.segments[index].data_indices, len(self.checkpoints[index])
        return (1.0 if members is None else len(self.train_indices) / len(members)) / count

    def _size(self, numbers: int) -> int:
        return max(1, numbers // self.layout.width)


def fit_source(
    task: Task,
    data: Mapping[str, Batch],
    states_by_epoch: Mapping[int, State],
    segments: Sequence[TrainingSegment],
    train_indices: Sequence[int] | np.ndarray | Tensor,
    *,
    basis: Basis = "ekfac",
    fisher: Fisher = "true",
    curvature: CurvatureKind = "ggn",
    fast: bool = False,
    weight_decay: bool = True,
    preconditioners: Sequence[Preconditioner] | None = None,
    untracked: UntrackedPolicy = "refuse",
    seed: int = 0,
    device: torch.device | str = "cpu",
    batch_size: int = 512,
    on_progress: Callable[[int, int], None] | None = None,
) -> SourceFit:
    """Fit the curvature of every segment (SOURCE, arXiv 2405.12186, §3.4 and appendix D).

    Kronecker bases average A and S over a segment's checkpoints, decompose once, then average Λ in that basis.

    Args:
        task: Measurement, loss and (for the true Fisher and the Gauss–Newton matrix) outputs.
        data: ``train`` and ``test`` splits.
        states_by_epoch: Checkpoints of one run, by epoch.
        segments: From :func:`source_segments` or :func:`multi_stage_segments`.
        train_indices: Rows of the train split that the run trained on and that are scored, n.
        basis: ``ekfac``, ``kfac`` or ``diagonal``; ``exact`` for small models.
        fisher: Labels drawn from the model (``true``) or the data's (``empirical``); Kronecker bases.
        curvature: Of basis ``exact``.
        fast: Fast-SOURCE: average a segment's parameters instead of its curvature and gradients.
        weight_decay: Whether decay belongs to the curvature; ``False`` as in the paper, which leaves it out.
        preconditioners: P of each segment, for AdamW and RMSProp.
        untracked: What to do about parameters outside layers with factors; basis ``exact`` takes all.
        seed: Of the drawn labels; one set of draws for all checkpoints.
        device: Where to compute.
        batch_size: Examples per pass; the result does not depend on it beyond rounding.
        on_progress: Called after every segment with (done, total).

    Raises:
        UsageError: Unknown basis or curvature, rows out of range, a wrong number of preconditioners, or a model that is
            too large for basis ``exact``; names its size.
        DataError: A checkpoint is missing; names the epochs.
        TaskError: Another architecture; parameters that cannot be tracked; a task without outputs.
        NumericalError: A parameter, gradient or moment is not finite; names checkpoint and layer.
    """
    if basis not in BASES:
        raise UsageError(f"Unknown basis {basis!r} for SOURCE.", f"Allowed: {', '.join(BASES)}.")
    if fisher not in FISHERS:
        raise UsageError(f"Unknown Fisher information {fisher!r}.", f"Allowed: {', '.join(FISHERS)}.")
    if preconditioners is not None and len(preconditioners) != len(segments):
        raise UsageError(
            f"SOURCE got {len(preconditioners)} preconditioners for {len(segments)} segments.", "Give one for each."
        )
    states = segment_states(segments, states_by_epoch, fast=fast)
    num_rows = len(next(iter(data["train"].values())))
    rows = torch.from_numpy(row_numbers(train_indices, num_rows))
    for segment in segments:
        if segment.data_indices is not None:
            row_numbers(segment.data_indices, num_rows)
    final_model = model_from(task, states_by_epoch[segments[-1].epochs[-1]]).to(device)
    layout: FlatLayout | LayerLayout
    if basis == "exact":
        check_curvature(curvature)
        layout = flat_layout(task, final_model, device)
    else:
        layout = layer_layout(task, final_model, untracked, batch_size, device)
    checkpoints, operators = [], []
    for index, segment in enumerate(segments):
        models = tuple((label, model_from(task, state).to(device)) for label, state in states[index])
        own = rows if segment.data_indices is None else torch.tensor(segment.data_indices)
        given = None if preconditioners is None else layout.preconditioner(final_model, preconditioners[index])
        decay = segment.weight_decay * weight_decay
        if isinstance(layout, FlatLayout):
            mean = _mean_curvature(layout, models, data["train"], own, curvature, seed, batch_size)
            if given is None:
                operator = dense_operator(mean, segment.duration, decay)
            else:
                operator = preconditioned_operator(mean, given, segment, weight_decay=weight_decay)
        else:
            assert basis != "exact"
            layers = segment_curvature(
                task,
                models,
                data["train"],
                own,
                kind=basis,
                fisher=fisher,
                seed=seed,
                untracked=untracked,
                batch_size=batch_size,
                device=device,
            )
            if given is None:
                operator = kronecker_operator(layers, segment.duration, decay)
            else:
                extra = preconditioned_decay(segment, given) * weight_decay
                operator = preconditioned_kronecker_operator(layers, given, extra, segment.duration)
        checkpoints.append(models)
        operators.append(operator)
        if on_progress is not None:
            on_progress(index + 1, len(segments))
    return SourceFit(task, data, tuple(segments), tuple(checkpoints), tuple(operators), layout, final_model, rows)


def _mean_curvature(
    layout: FlatLayout,
    checkpoints: Sequence[tuple[str, nn.Module]],
    data: Batch,
    rows: Tensor,
    kind: CurvatureKind,
    seed: int,
    batch_size: int,
) -> Tensor:
    """Return the explicit curvature averaged over a segment's checkpoints, ``[p, p]`` float64 on the device."""
    total = torch.zeros(layout.width, layout.width, dtype=torch.float64, device=layout.device)
    for label, model in checkpoints:
        with naming(label):
            matrix = curvature_matrix(
                layout.task, model, data, rows, kind, seed=seed, device=layout.device, batch_size=batch_size
            )
            total += matrix.to(total)
    return total / len(checkpoints)


def source_scores(
    task: Task,
    data: Mapping[str, Batch],
    states_by_epoch: Mapping[int, State],
    segments: Sequence[TrainingSegment],
    train_indices: Sequence[int] | np.ndarray | Tensor,
    query_indices: Sequence[int] | Tensor,
    **settings,
) -> ScoreMatrix:
    """Return SOURCE's scores ``[m, n]`` of one run: :func:`fit_source` and :meth:`SourceFit.scores`.

    Scores are n × the first-order loss of goodness on removal (positive helps); seeds are averaged by the caller.

    Args:
        task: As for :func:`fit_source`, also the others.
        data: ``train`` and ``test`` splits.
        states_by_epoch: Checkpoints by epoch.
        segments: The plan.
        train_indices: Rows of the train split, n.
        query_indices: Rows of the test split, m.
        **settings: Keyword arguments of :func:`fit_source`.
    """
    return fit_source(task, data, states_by_epoch, segments, train_indices, **settings).scores(query_indices)
