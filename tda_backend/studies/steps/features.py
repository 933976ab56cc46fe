"""The step that takes gradients at one checkpoint, once for every method, projection and λ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from tda_backend.numerics.features.checkpoint_features import CheckpointFeatures, checkpoint_features
from tda_backend.studies.pipeline.context import RunContext
from tda_backend.studies.pipeline.planning import Planning
from tda_backend.studies.pipeline.sizes import LEAST_COLUMNS, Held, doubles
from tda_backend.studies.pipeline.step import Cost, Step, needs, setting
from tda_backend.studies.store.artifact import Artifact
from tda_backend.studies.store.artifacts import ArtifactWriter


@dataclass(frozen=True, kw_only=True)
class Features(Step):
    """Gradients of goodness (and, where needed, of the loss) at the end of an epoch.

    Attributes:
        epoch: Of the checkpoint.
        gram: ``False`` where the model has no rank-one factors and no configuration asks for the inner products of all
            gradients: nothing of size N × N is then computed. ``None``: they are kept, as factors or as a matrix.
    """

    NAME: ClassVar[str] = "features"
    VERSION: ClassVar[int] = 1

    epoch: int
    gram: bool | None = setting(None)
    examples: Step = needs()
    train: Step = needs()

    def run(self, context: RunContext, writer: ArtifactWriter) -> None:
        """Take the gradients and store them."""
        probe = context.probe(self.examples, context.model(self.train, self.epoch))
        found = checkpoint_features(probe, with_gram=self.gram is not False, budget_numbers=context.budget_numbers)
        for name, values in found.to_arrays().items():
            writer.array(name, values)

    @staticmethod
    def read(artifact: Artifact, device: torch.device | str = "cpu") -> CheckpointFeatures:
        """Return stored features on a device."""
        return CheckpointFeatures.from_arrays(artifact.arrays()).to(device)


def plan_features(planning: Planning, trained: Step, epoch: int, of: str, needs_gram: bool) -> Features:
    """Add the features of a training run's checkpoint.

    Args:
        planning: The plan in the making.
        trained: The training run.
        epoch: Of the checkpoint.
        of: Names the run in the label.
        needs_gram: Whether the inner products of all gradients are asked for, and not projections alone.
    """
    sizes = planning.sizes
    has_gram = not planning.facts.without_factors or planning.keeps_gram(trained.key, epoch, needs_gram)
    if sizes.factor_numbers:
        held = Held(sizes.factors)
    else:
        held = sizes.dense_block + (sizes.gram + doubles(sizes.num_vectors, LEAST_COLUMNS)) if has_gram else Held(0.0)
    return planning.steps.add(
        Features(
            epoch=epoch,
            gram=None if has_gram else False,
            examples=planning.examples,
            train=trained,
            label=f"features epoch {epoch}{of}",
            cost=Cost(1.0 * planning.size, held.usual, saved_gib=held.saved),
        )
    )
