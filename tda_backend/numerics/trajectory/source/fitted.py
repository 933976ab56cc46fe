"""SOURCE's scores for any queries, once the curvature of every segment is fitted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from tda_backend.errors import UsageError
from tda_backend.models.probe import Group, Probe
from tda_backend.numerics.features.streaming import Quantity
from tda_backend.numerics.spectral.contraction import ScoreMatrix
from tda_backend.numerics.trajectory.source.gradients import GradientLayout, LayerLayout
from tda_backend.numerics.trajectory.source.segments import TrainingSegment, naming
from tda_backend.numerics.trajectory.source.walk import SegmentOperator, walk

_QUERY_NUMBERS = 2**26
"""Numbers (256 MiB of float32) in one set of queries; about four sets of that size are held at once."""
_GRADIENT_NUMBERS = 2**26
"""Numbers (256 MiB of float32) in one block of per-example gradients; each block reads the whole set of queries."""

Checkpoints = tuple[tuple[str, Probe], ...]
"""(label, model with the rows that the segment trained on) of each checkpoint of a segment."""


@dataclass(frozen=True)
class SourceFit:
    """The curvature of every segment of one run; serves any queries.

    Attributes:
        final: The end of the run, with the n rows of the train split to score.
        segments: In order of time.
        checkpoints: Of each segment.
        operators: What each segment does to a query.
        layout: The coordinates of gradients.
        query_numbers: Numbers in one set of queries.
        gradient_numbers: Numbers in one block of per-example gradients.
    """

    final: Probe
    segments: tuple[TrainingSegment, ...]
    checkpoints: tuple[Checkpoints, ...]
    operators: tuple[SegmentOperator, ...]
    layout: GradientLayout
    query_numbers: int = _QUERY_NUMBERS
    gradient_numbers: int = _GRADIENT_NUMBERS

    @property
    def rows(self) -> Tensor:
        """Rows of the train split that are scored, ``[n]``."""
        return torch.as_tensor(self.final.train)

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
        everyone = torch.arange(len(self.rows))
        device = self.final.home
        scores = {name: torch.zeros(len(queries), len(everyone), dtype=torch.float64, device=device) for name in blocks}
        parts = queries.split(self._size(self.query_numbers))
        start, done = 0, 0
        for part in parts:
            rows = slice(start, start + len(part))
            start = rows.stop
            query = self._final_gradients(replace(self.final, query=part), "query", "goodness")
            for index, response in walk(self.operators, query):
                for columns, gradients in self._segment_gradients(index, everyone, response):
                    for name, block in blocks.items():
                        products = (response[:, block] @ gradients[:, block].T).to(self.final.home, torch.float64)
                        scores[name][rows, columns] -= products * self._weight(index)
                done += 1
                if on_progress is not None:
                    on_progress(done, len(parts) * len(self.operators))
        return {name: values.to(self.final.dtype) for name, values in scores.items()}

    def self_influence(self) -> Tensor:
        """Return each example's score on its own loss (goodness −ℓ at the end of the run), ``[n]`` float64."""
        result = torch.zeros(len(self.rows), dtype=torch.float64, device=self.final.home)
        for part in torch.arange(len(self.rows)).split(self._size(self.gradient_numbers)):
            query = -self._final_gradients(replace(self.final, train=self.rows[part]), "train", "train_loss")
            for index, response in walk(self.operators, query):
                for columns, gradients in self._segment_gradients(index, part, response):
                    own = (response[columns - part[0]] * gradients).sum(1)
                    result[columns] -= own.to(result) * self._weight(index)
        return result

    def _segment_gradients(self, index: int, positions: Tensor, like: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (positions in ``rows``, gradients ``[b, p]`` summed over checkpoints) of the segment's own.

        The gradients lie in a buffer that the next ones overwrite.
        """
        members = self.segments[index].data_indices
        if members is not None:
            inside = np.isin(self.rows[positions].numpy(), np.asarray(members))
            positions = positions[torch.from_numpy(inside)]
        if len(positions) == 0:
            return
        size = min(self._size(self.gradient_numbers), len(positions))
        buffer = like.new_empty(size, like.shape[1])
        for number, part in enumerate(positions.split(size)):
            total = buffer[: len(part)].zero_()
            for label, probe in self.checkpoints[index]:
                with naming(label):
                    own = replace(probe, train=self.rows[part])
                    self.layout.add_gradients(
                        total, own, "train", "train_loss", self.operators[index], verify=number == 0
                    )
            yield part, total

    def _final_gradients(self, probe: Probe, group: Group, quantity: Quantity) -> Tensor:
        with naming("the end of the run"):
            return self.layout.gradients(probe, group, quantity, self.operators[-1])

    def _weight(self, index: int) -> float:
        """Return n/N_ℓ over the number of checkpoints whose gradients were summed."""
        members, count = self.segments[index].data_indices, len(self.checkpoints[index])
        return (1.0 if members is None else len(self.rows) / len(members)) / count

    def _size(self, numbers: int) -> int:
        return max(1, numbers // self.layout.width)
