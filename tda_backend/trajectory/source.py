"""SOURCE: influence through approximate unrolling of the training run, segment by segment (arXiv 2405.12186)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from tda_backend.errors import UsageError
from tda_backend.features.streaming import Quantity
from tda_backend.spectral.contraction import ScoreMatrix
from tda_backend.trajectory.gradients import GradientLayout
from tda_backend.trajectory.segments import TrainingSegment
from tda_backend.trajectory.walk import SegmentOperator, walk
from tda_backend.types import Batch, Task

Basis = Literal["ekfac", "exact"]
BASES: tuple[Basis, ...] = ("ekfac", "exact")

_QUERY_NUMBERS = 2**26
"""Numbers (256 MiB of float32) in one set of queries; about four sets of that size are held at once."""
_GRADIENT_NUMBERS = 2**25
"""Numbers (128 MiB of float32) in one block of per-example gradients."""


def contract_walk(
    operators: Sequence[SegmentOperator],
    gradients: Sequence[Tensor],
    query: Tensor,
    weights: Sequence[Tensor | float] | None = None,
) -> Tensor:
    """Return −Σ_ℓ w_ℓ(z)·v_ℓ·ḡ_ℓ(z) of explicit gradients, ``[m, n]``; positive helps.

    f(D∖z) − f(D) ≈ (1/N)Σ_ℓ v_ℓ·ḡ_ℓ(z) for a goodness f; a score is n times the *loss* of goodness on removal.

    Args:
        operators: One per segment, in order of time.
        gradients: ḡ_ℓ, the training-loss gradients averaged over the segment's checkpoints, ``[n, p]`` each.
        query: φ', gradients of goodness at the end of the run, ``[m, p]``.
        weights: n·1{z ∈ D_ℓ}/N_ℓ of each segment, ``[n]`` or a number; ``None`` where all train on all n.

    Raises:
        UsageError: Lengths differ.
        NumericalError: A response is not finite.
    """
    if not operators or len(gradients) != len(operators) or (weights is not None and len(weights) != len(operators)):
        raise UsageError(
            f"SOURCE got {len(operators)} segments, {len(gradients)} sets of gradients and "
            f"{'no' if weights is None else len(weights)} weights.",
            "Give one set of gradients (and weights) for each segment.",
        )
    scores = query.new_zeros(len(query), len(gradients[0]))
    for index, response in walk(operators, query):
        scores -= (response @ gradients[index].T) * (1.0 if weights is None else weights[index])
    return scores


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

    def scores(self, query_indices: Sequence[int] | Tensor) -> ScoreMatrix:
        """Return n × the first-order loss of goodness on removal, ``[m, n]``; positive helps.

        Raises:
            UsageError: No query.
            NumericalError: A gradient or a response is not finite; names the checkpoint or the segment.
        """
        queries = torch.as_tensor(query_indices, dtype=torch.long)
        if len(queries) == 0:
            raise UsageError("There are no queries.", "Give at least one index.")
        scores = torch.zeros(len(queries), len(self.train_indices), dtype=torch.float64)
        start = 0
        for part in queries.split(self._size(self.query_numbers)):
            rows = slice(start, start + len(part))
            query = self._gradients("the end of the run", self.final_model, "test", part, "goodness")
            for index, response in walk(self.operators, query):
                for columns, gradients in self._segment_gradients(index, torch.arange(len(self.train_indices))):
                    products = (response @ gradients.T).cpu().to(torch.float64)
                    scores[rows, columns] -= products * self._weight(index)
            start += len(part)
        return ScoreMatrix(scores.to(next(self.final_model.parameters()).dtype))

    def self_influence(self) -> Tensor:
        """Return each example's score on its own loss (goodness −ℓ at the end of the run), ``[n]`` float64."""
        result = torch.zeros(len(self.train_indices), dtype=torch.float64)
        for part in torch.arange(len(self.train_indices)).split(self._size(self.gradient_numbers)):
            query = -self._gradients(
                "the end of the run", self.final_model, "train", self.train_indices[part], "train_loss"
            )
            for index, response in walk(self.operators, query):
                for columns, gradients in self._segment_gradients(index, part):
                    own = (response[columns - part[0]] * gradients).sum(1)
                    result[columns] -= own.cpu().to(torch.float64) * self._weight(index)
        return result

    def _segment_gradients(self, index: int, positions: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (positions in ``train_indices``, ḡ_ℓ of them ``[b, p]``) of those that the segment trained on."""
        members = self.segments[index].data_indices
        if members is not None:
            inside = np.isin(self.train_indices[positions].numpy(), np.asarray(members))
            positions = positions[torch.from_numpy(inside)]
        for part in positions.split(self._size(self.gradient_numbers)):
            if len(part) == 0:
                continue
            total: Tensor | None = None
            for label, model in self.checkpoints[index]:
                own = self._gradients(label, model, "train", self.train_indices[part], "train_loss")
                total = own if total is None else total.add_(own)
            assert total is not None
            yield part, total.div_(len(self.checkpoints[index]))

    def _gradients(self, label: str, model: nn.Module, split: str, rows: Tensor, quantity: Quantity) -> Tensor:
        with naming(label):
            return self.layout.gradients(model, self.data[split], rows, quantity)

    def _weight(self, index: int) -> float:
        members = self.segments[index].data_indices
        return 1.0 if members is None else len(self.train_indices) / len(members)

    def _size(self, numbers: int) -> int:
        return max(1, numbers // self.layout.width)


@contextmanager
def naming(label: str) -> Iterator[None]:
    """Say in a numerical error at which checkpoint it happened."""
    try:
        yield
    except NumericalError as error:
        raise NumericalError(f"At {label}: {error.message}", error.hint) from error
