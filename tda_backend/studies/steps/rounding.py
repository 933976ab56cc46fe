"""What less than float32 costs the gradients of a checkpoint: measured by the steps that take them, and said."""

from __future__ import annotations

from dataclasses import asdict
from typing import Protocol

from tda_backend.numerics.features.rounding import rounding_error
from tda_backend.numerics.features.streaming import Quantity
from tda_backend.studies.pipeline.context import Keyed, PassesGradients, RunContext
from tda_backend.studies.store.artifact import REMARKS
from tda_backend.studies.store.artifacts import ArtifactWriter

GRADIENT_ERROR = "gradient_error"
"""The fact that says how far a step's gradients lie from those in float32."""


class AtCheckpoint(PassesGradients, Protocol):
    """A step that takes gradients at the checkpoint of a training run."""

    @property
    def train(self) -> Keyed:
        """The training run."""
        ...

    @property
    def epoch(self) -> int:
        """Of the checkpoint."""
        ...


def note_rounding(context: RunContext, writer: ArtifactWriter, step: AtCheckpoint, quantity: Quantity) -> None:
    """Store and remark how far a step's gradients lie from those in float32; nothing where they are.

    Args:
        context: The run's.
        writer: Of the step's artifact.
        step: Whose precision, at which checkpoint.
        quantity: What the step differentiates at training examples.
    """
    if step.precision is None:
        return
    found = rounding_error(context.probe(step, context.model(step.train, step.epoch)), quantity)
    writer.facts[GRADIENT_ERROR] = asdict(found)
    writer.facts[REMARKS] = [found.text]
