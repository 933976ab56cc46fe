"""A training run cut into segments within which SOURCE takes curvature and gradients to be stationary."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tda_backend.errors import DataError, NumericalError, UsageError
from tda_backend.finite import all_finite
from tda_backend.models.training.routes.schedule import learning_rate, steps_per_epoch
from tda_backend.types import TrainingSettings

State = Mapping[str, Tensor]
"""A state dict on the CPU."""


@dataclass(frozen=True)
class TrainingSegment:
    """One segment ℓ of a training run (SOURCE, arXiv 2405.12186, §3.2).

    Attributes:
        epochs: Epochs at whose end its checkpoints were kept, ascending; the segment ends with the last of them.
        num_steps: K_ℓ, the number of optimizer steps.
        learning_rate_sum: Σ lr over exactly these steps, = η̄_ℓK_ℓ.
        momentum: Heavy-ball β.
        weight_decay: ω of the optimizer.
        decay_kind: ``l2`` adds ω to the curvature; ``decoupled`` (AdamW) adds ωP⁻¹, P the preconditioner.
        data_indices: D_ℓ, the rows of the train split that the segment trained on, or ``None`` for all that the run
            trains on.
    """

    epochs: tuple[int, ...]
    num_steps: int
    learning_rate_sum: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    decay_kind: Literal["l2", "decoupled"] = "l2"
    data_indices: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not self.epochs or list(self.epochs) != sorted(set(self.epochs)):
            raise UsageError(
                f"A segment has the checkpoint epochs {self.epochs}.", "Give at least one; ascending, all different."
            )
        good = math.isfinite(self.learning_rate_sum) and self.learning_rate_sum >= 0
        if self.num_steps < 1 or not good or not 0 <= self.momentum < 1 or not self.weight_decay >= 0:
            raise UsageError(
                f"The segment that ends with epoch {self.epochs[-1]} has {self.num_steps} steps, learning rates that "
                f"sum to {self.learning_rate_sum}, momentum {self.momentum} and weight decay {self.weight_decay}.",
                "Steps are ≥ 1, the sum finite and ≥ 0, momentum in [0, 1), weight decay ≥ 0.",
            )
        if self.data_indices is not None and len(set(self.data_indices)) != max(len(self.data_indices), 1):
            raise UsageError(
                f"The segment that ends with epoch {self.epochs[-1]} has an empty data set, or names a row twice.",
                "Give each training row of the segment once.",
            )

    @property
    def duration(self) -> float:
        """c_ℓ = Σ lr / (1 − β): the effective learning rate of heavy-ball momentum, SOURCE appendix D.2."""
        return self.learning_rate_sum / (1 - self.momentum)


@dataclass(frozen=True)
class TrainingStage:
    """One stage of multi-stage training: its own settings and data set.

    Attributes:
        settings: Settings of this stage; its schedule runs over its own epochs.
        data_indices: Rows of the train split that it trains on.
        last_epoch: Epochs run, ``None`` for all of the settings.
        num_segments: L of this stage.
        num_checkpoints: C of this stage, a multiple of L.
    """

    settings: TrainingSettings
    data_indices: Sequence[int]
    last_epoch: int | None = None
    num_segments: int = 1
    num_checkpoints: int = 2


def source_segments(
    settings: TrainingSettings | None,
    num_train: int,
    last_epoch: int | None = None,
    num_segments: int = 3,
    num_checkpoints: int = 6,
) -> tuple[TrainingSegment, ...]:
    """Return L segments of equally many checkpoints each, C in all, spread evenly over the epochs run.

    Checkpoint i = 1…C lies at the end of epoch E·i/C, rounded; segment ℓ runs from the last checkpoint of the segment
    before it (or the start) to its own last one. Defaults of SOURCE, §5.1: L = 3, C = 6.

    Args:
        settings: Training settings; the schedule refers to all its epochs, also where the run stops earlier.
        num_train: n, which decides the number of steps in an epoch.
        last_epoch: E, the final checkpoint (``None``: the last epoch of the settings).
        num_segments: L.
        num_checkpoints: C, a multiple of L.

    Raises:
        UsageError: No settings, so that learning rates are unknown; an epoch or number out of range; C no multiple of
            L; fewer epochs than checkpoints.
    """
    if settings is None:
        raise UsageError(
            "The learning rates of the run are unknown: the model was trained elsewhere, without training settings.",
            "Give the task training = TrainingSettings(…) that describe its run; SOURCE and HyDRA need them.",
        )
    if num_segments < 1 or num_checkpoints < num_segments or num_checkpoints % num_segments:
        raise UsageError(
            f"SOURCE got {num_checkpoints} checkpoints for {num_segments} segments.",
            "Give at least one segment, and a number of checkpoints that is a multiple of it.",
        )
    if num_train < 1:
        raise UsageError(f"SOURCE got {num_train} training examples.", "At least 1 is needed.")
    end = settings.num_epochs if last_epoch is None else last_epoch
    if not 1 <= end <= settings.num_epochs:
        raise UsageError(f"The last epoch is {end}.", f"The run has the epochs 1…{settings.num_epochs}.")
    if end < num_checkpoints:
        raise UsageError(
            f"SOURCE got {num_checkpoints} checkpoints, but the run ends after {end} epochs and keeps one an epoch.",
            f"Set num_checkpoints to at most {end}, as a multiple of num_segments.",
        )
    # Steps of E/C ≥ 1 stay different when halves are rounded up; Python's round() would join 1.5 and 2.5.
    epochs = [math.floor(end * (i + 1) / num_checkpoints + 0.5) for i in range(num_checkpoints)]
    each = num_checkpoints // num_segments
    groups = [tuple(epochs[start : start + each]) for start in range(0, num_checkpoints, each)]
    steps = steps_per_epoch(settings, num_train)
    segments, first = [], 0
    for group in groups:
        span = range(first * steps, group[-1] * steps)
        rates = math.fsum(learning_rate(settings, step, steps * settings.num_epochs) for step in span)
        segments.append(TrainingSegment(group, len(span), rates, settings.momentum, settings.weight_decay))
        first = group[-1]
    return tuple(segments)


def multi_stage_segments(stages: Sequence[TrainingStage]) -> tuple[TrainingSegment, ...]:
    """Return the segments of stages trained one after the other, epochs counted on (SOURCE, §3.3 and §5.3).

    Raises:
        UsageError: No stage, or as :func:`source_segments` for one of them.
    """
    if not stages:
        raise UsageError("Multi-stage training got no stage.", "Give at least one.")
    segments: list[TrainingSegment] = []
    for stage in stages:
        offset = segments[-1].epochs[-1] if segments else 0
        rows = tuple(int(row) for row in stage.data_indices)
        own = source_segments(stage.settings, len(rows), stage.last_epoch, stage.num_segments, stage.num_checkpoints)
        segments += [
            TrainingSegment(
                tuple(epoch + offset for epoch in part.epochs),
                part.num_steps,
                part.learning_rate_sum,
                part.momentum,
                part.weight_decay,
                part.decay_kind,
                rows,
            )
            for part in own
        ]
    return tuple(segments)


def segment_states(
    segments: Sequence[TrainingSegment], states_by_epoch: Mapping[int, State], *, fast: bool = False
) -> list[tuple[tuple[str, State], ...]]:
    """Return (label, state) of every checkpoint of each segment; with ``fast`` one average per segment.

    Fast-SOURCE (arXiv 2405.12186, §3.4 and E.2) averages the parameters (and floating-point buffers) within a segment;
    other buffers are those of its last checkpoint.

    Raises:
        UsageError: No segment, or segments out of order.
        DataError: A checkpoint is missing; names the epochs.
        NumericalError: A parameter is not finite; names it and the epoch.
    """
    epochs = [epoch for segment in segments for epoch in segment.epochs]
    if not epochs or epochs != sorted(set(epochs)):
        raise UsageError(f"The segments have the checkpoint epochs {epochs}.", "Give segments in order of time.")
    missing = [epoch for epoch in epochs if epoch not in states_by_epoch]
    if missing:
        raise DataError(
            f"SOURCE needs checkpoints that are not there: epochs {', '.join(map(str, missing))}.",
            f"Train with checkpoints at epochs {', '.join(map(str, epochs))}, or take fewer checkpoints.",
        )
    for epoch in epochs:
        for name, value in states_by_epoch[epoch].items():
            if value.is_floating_point() and not all_finite(value):
                raise NumericalError(
                    f"The checkpoint of epoch {epoch} holds NaN or infinity in {name}.",
                    "Look for a training run that diverged, or choose an earlier last epoch.",
                )
    result = []
    for segment in segments:
        states = [states_by_epoch[epoch] for epoch in segment.epochs]
        if fast:
            label = f"epochs {segment.epochs[0]}…{segment.epochs[-1]}, averaged"
            result.append(((label, average_state(states)),))
        else:
            result.append(tuple((f"epoch {e}", s) for e, s in zip(segment.epochs, states, strict=True)))
    return result


def average_state(states: Sequence[State]) -> dict[str, Tensor]:
    """Return the mean of every floating-point tensor, taken in float64; other tensors are those of the last state."""
    mean = {}
    for name, last in states[-1].items():
        if last.is_floating_point():
            mean[name] = torch.stack([state[name].to(torch.float64) for state in states]).mean(0).to(last.dtype)
        else:
            mean[name] = last.clone()
    return mean


@contextmanager
def naming(label: str) -> Iterator[None]:
    """Say in a numerical error at which checkpoint it happened."""
    try:
        yield
    except NumericalError as error:
        raise NumericalError(f"At {label}: {error.message}", error.hint) from error
