"""The step that takes gradients at one checkpoint, once for every method, projection and λ."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from tda_backend.models.precision import Precision
from tda_backend.numerics.features.checkpoint_features import CheckpointFeatures, InnerProducts, checkpoint_features
from tda_backend.numerics.features.dense import BUDGET_NUMBERS
from tda_backend.studies.pipeline.context import RunContext
from tda_backend.studies.pipeline.planning import Planning
from tda_backend.studies.pipeline.sizes import LEAST_COLUMNS, PASS_ROWS, Held, Sizes, doubles
from tda_backend.studies.pipeline.step import Cost, Step, needs, setting
from tda_backend.studies.pipeline.times import LEAST_SECONDS, backward, copied, forward, product
from tda_backend.studies.steps.rounding import note_rounding
from tda_backend.studies.store.artifact import Artifact
from tda_backend.studies.store.artifacts import ArtifactWriter


@dataclass(frozen=True, kw_only=True)
class Features(Step):
    """Gradients of goodness (and, where needed, of the loss) at the end of an epoch.

    Attributes:
        epoch: Of the checkpoint.
        products: Which inner products are taken of a model without rank-one factors, ``none`` or ``queries``, where no
            configuration asks for those of all gradients: nothing of size N × N is then computed. ``None``: all are
            kept, as factors or as a matrix.
        precision: Of passes that take gradients; ``None``: float32.
    """

    NAME: ClassVar[str] = "features"
    VERSION: ClassVar[int] = 1

    epoch: int
    products: str | None = setting(None)
    precision: Precision | None = setting(None)
    examples: Step = needs()
    train: Step = needs()

    def run(self, context: RunContext, writer: ArtifactWriter) -> None:
        """Take the gradients and store them."""
        probe = context.probe(self, context.model(self.train, self.epoch))
        note_rounding(context, writer, self, "goodness" if probe.task.margin_identity else "train_loss")
        found = checkpoint_features(probe, products=self.taken, budget_numbers=context.budget_numbers)
        for name, values in found.to_arrays().items():
            writer.array(name, values)

    @property
    def taken(self) -> InnerProducts:
        """Which inner products are taken of a model without factors."""
        return InnerProducts.ALL if self.products is None else InnerProducts[self.products.upper()]

    @staticmethod
    def read(artifact: Artifact, device: torch.device | str = "cpu") -> CheckpointFeatures:
        """Return stored features on a device."""
        return CheckpointFeatures.from_arrays(artifact.arrays()).to(device)


def plan_features(planning: Planning, trained: Step, epoch: int, of: str, asked: InnerProducts) -> Features:
    """Add the features of a training run's checkpoint.

    Args:
        planning: The plan in the making.
        trained: The training run.
        epoch: Of the checkpoint.
        of: Names the run in the label.
        asked: Which inner products of gradients the configuration that is planned needs.
    """
    taken = planning.inner_products(trained.key, epoch, asked) if planning.facts.without_factors else InnerProducts.ALL
    held = _memory(planning.sizes, taken)
    return planning.steps.add(
        Features(
            epoch=epoch,
            products=None if taken is InnerProducts.ALL else taken.name.lower(),
            precision=planning.study.precision,
            examples=planning.examples,
            train=trained,
            label=f"features epoch {epoch}{of}",
            cost=Cost(
                _seconds(planning.sizes, taken),
                held.usual,
                saved_gib=held.saved,
                stored_gib=_stored(planning.sizes, taken),
            ),
        )
    )


def _seconds(sizes: Sizes, taken: InnerProducts) -> float:
    """Return what the features of a checkpoint take: passes that record factors, or those of values and products."""
    num, numbers = sizes.num_vectors, sizes.num_parameters
    if sizes.factor_numbers:
        return LEAST_SECONDS + 3 * backward(sizes, num) + copied(sizes, 6 * sizes.factors)
    said = LEAST_SECONDS + forward(sizes, 2 * sizes.num_train + sizes.num_others)
    if taken is InnerProducts.NONE:
        return said
    passes = max(1, math.ceil(num * numbers / BUDGET_NUMBERS))
    rows = num if taken is InnerProducts.ALL else sizes.num_queries
    return said + passes * 2 * backward(sizes, num) + product(sizes, rows, numbers, num)


def _stored(sizes: Sizes, taken: InnerProducts) -> float:
    """Return what they take on the disk: goodness and loss, with factors or inner products."""
    values = sizes.numbers(2 * sizes.num_train + sizes.num_others)
    if sizes.factor_numbers:
        return values + sizes.factors
    if taken is InnerProducts.QUERIES:
        return values + doubles(sizes.num_queries, sizes.num_train) + doubles(sizes.num_vectors)
    return values + (sizes.gram if taken is InnerProducts.ALL else 0.0)


def _memory(sizes: Sizes, taken: InnerProducts) -> Held:
    """Return what the features of a checkpoint hold: factors, or inner products with what they are summed from."""
    if sizes.factor_numbers:
        passed = sizes.numbers(
            2 * min(PASS_ROWS, sizes.num_train), sizes.factor_numbers
        )  # recorded, and their gradient
        return Held(sizes.factors + passed + sizes.passing)
    said = sizes.forward(min(PASS_ROWS, sizes.num_train))
    if taken is InnerProducts.NONE:
        return Held(said)
    products = sizes.gram if taken is InnerProducts.ALL else doubles(sizes.num_queries, sizes.num_train)
    held = sizes.dense_block + (products + doubles(sizes.num_vectors, LEAST_COLUMNS))
    return Held(max(held.usual, said), held.saved)
