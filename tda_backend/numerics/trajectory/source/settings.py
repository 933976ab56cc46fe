"""What SOURCE is fitted to and how: the checkpoints of a run, and the hyper-parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor, nn

from tda_backend.errors import UsageError
from tda_backend.models.precision import FULL, Precision
from tda_backend.models.probe import Probe
from tda_backend.models.tasks.data import num_rows
from tda_backend.models.training.fit import model_from
from tda_backend.models.training.run import Rows, row_numbers
from tda_backend.numerics.curvature.kronecker.basis import EKFAC, KINDS, Kind
from tda_backend.numerics.curvature.kronecker.fisher import FISHERS, FisherKind
from tda_backend.numerics.curvature.pseudo_gradients import CurvatureKind
from tda_backend.numerics.features.layers import UntrackedPolicy
from tda_backend.numerics.trajectory.source.segments import State, TrainingSegment
from tda_backend.types import Batch, Task

EXACT: Final = "exact"
Basis = Kind | Literal["exact"]
BASES: tuple[Basis, ...] = (*KINDS, EXACT)


@dataclass(frozen=True)
class CheckpointedRun:
    """A training run whose checkpoints were kept, cut into segments.

    Attributes:
        task: Measurement, loss and (for the true Fisher and the Gauss–Newton matrix) outputs.
        data: ``train`` and ``test`` splits.
        states: Checkpoints by epoch.
        segments: In order of time, from :func:`source_segments` or :func:`multi_stage_segments`.
        rows: Rows of the train split that the run trained on and that are scored, ``[n]``.
        device: Where to compute.
        batch_size: Examples per pass; results do not depend on it beyond rounding.
        precision: Of passes that are differentiated.
    """

    task: Task
    data: Mapping[str, Batch]
    states: Mapping[int, State]
    segments: Sequence[TrainingSegment]
    rows: Rows
    device: torch.device | str = "cpu"
    batch_size: int = 512
    precision: Precision = FULL

    @property
    def final_state(self) -> State:
        """The checkpoint at the end of the last segment."""
        return self.states[self.segments[-1].epochs[-1]]

    def checked_rows(self, rows: Rows) -> Tensor:
        """Return rows of the train split, int64; raises a UsageError where one is out of range."""
        return torch.from_numpy(row_numbers(rows, num_rows(self.data["train"])))

    def probe(self, state: State, rows: Tensor) -> Probe:
        """Return the model at a checkpoint, asked about ``rows`` of the train split."""
        model: nn.Module = model_from(self.task, state).to(self.device)
        return Probe(
            self.task,
            model,
            self.data,
            rows,
            device=self.device,
            batch_size=self.batch_size,
            precision=self.precision,
        )


@dataclass(frozen=True)
class SourceSettings:
    """Hyper-parameters of SOURCE (arXiv 2405.12186, §3.4 and appendix D).

    Attributes:
        basis: ``ekfac``, ``kfac`` or ``diagonal``; ``exact`` for small models.
        fisher: Labels drawn from the model (``true``) or the data's (``empirical``); Kronecker bases.
        curvature: Of basis ``exact``.
        fast: Fast-SOURCE: average a segment's parameters instead of its curvature and gradients.
        weight_decay: Whether decay belongs to the curvature; ``False`` as in the paper, which leaves it out.
        untracked: What to do about parameters outside layers with factors; basis ``exact`` takes all.
        seed: Of the drawn labels; one set of draws for all checkpoints.

    Raises:
        UsageError: Unknown basis or Fisher information.
    """

    basis: Basis = EKFAC
    fisher: FisherKind = "true"
    curvature: CurvatureKind = "ggn"
    fast: bool = False
    weight_decay: bool = True
    untracked: UntrackedPolicy = "refuse"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.basis not in BASES:
            raise UsageError(f"Unknown basis {self.basis!r} for SOURCE.", f"Allowed: {', '.join(BASES)}.")
        if self.fisher not in FISHERS:
            raise UsageError(f"Unknown Fisher information {self.fisher!r}.", f"Allowed: {', '.join(FISHERS)}.")


DEFAULTS = SourceSettings()
"""The paper's choices, but for weight decay, which belongs to the curvature."""
