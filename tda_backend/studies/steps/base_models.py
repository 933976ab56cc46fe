"""What counterfactual steps share: retraining with the same seeds, and the models trained on everything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from tda_backend.errors import DataError
from tda_backend.models.tasks.data import take
from tda_backend.models.training.outputs import evaluate
from tda_backend.models.training.retraining.plan import Retraining
from tda_backend.models.training.retraining.retraining import retrain_subsets
from tda_backend.numerics.evaluation.removal import removal_masks
from tda_backend.seeds import hashed_seed
from tda_backend.studies.config.selector import BEST, Selector
from tda_backend.studies.contract.choosing import choose
from tda_backend.studies.pipeline.context import RunContext
from tda_backend.studies.pipeline.planning import Planned, Planning
from tda_backend.studies.pipeline.step import Cost, Step, needs
from tda_backend.studies.store.artifacts import ArtifactWriter
from tda_backend.types import Batch, Task

SUBSET_ID = 0
"""The same for every counterfactual: a subset's number decides its training seeds, and these are to be compared."""
POOL_REACH = 2
"""Steps ahead for which worker processes are kept."""


def goodness_and_correctness(task: Task, model: nn.Module, batch: Batch, device: torch.device | str) -> Tensor:
    """Return each example's goodness, and 1 or 0 for right or wrong (NaN where there are no classes), ``[N, 2]``."""
    says = evaluate(task, model, batch, device)
    if task.num_classes is None or says.prediction is None:
        correct = torch.full_like(says.goodness, float("nan"))
    else:
        correct = (says.prediction == batch[task.label_key].cpu()).float()
    return torch.stack([says.goodness, correct], dim=1)


@dataclass(frozen=True, kw_only=True)
class CounterfactualStep(Step):
    """A step that retrains without some examples, always with the same seeds.

    Attributes:
        seeds: R, retrainings of each counterfactual.
        seed: The study's.
    """

    POOL_REACH: ClassVar[int | None] = POOL_REACH
    UNIT: ClassVar[str] = "model-epochs"

    seeds: int
    seed: int
    examples: Step = needs()

    def retrain_without(self, context: RunContext, left_out: Sequence[np.ndarray], test_rows: np.ndarray) -> np.ndarray:
        """Retrain without some training positions, each with the same seeds.

        Args:
            context: Task and data.
            left_out: c lists of training positions.
            test_rows: Rows of the test split that are read, ``[r]``.

        Returns:
            float32 ``[c, R, r, 2]``: goodness and correctness.

        Raises:
            DataError: A goodness is not finite.
        """
        rows = context.positions(self.examples).train
        masks = removal_masks(left_out, [len(positions) for positions in left_out], len(rows))
        chosen = take(context.test_split, torch.from_numpy(np.asarray(test_rows, dtype=np.int64)))
        retraining = Retraining(
            context.task,
            context.data,
            rows,
            masks,
            [SUBSET_ID] * len(masks),
            repeats=self.seeds,
            seed=hashed_seed("counterfactual", self.seed),
            device=context.device,
        )
        values = retrain_subsets(
            retraining,
            on_progress=context.on_progress,
            read=lambda task, model, _, device: goodness_and_correctness(task, model, chosen, device),
        )
        if not np.isfinite(values[..., 0]).all():
            count = int((~np.isfinite(values[..., 0])).sum())
            raise DataError(
                f"{count} outputs of counterfactually retrained models are not finite.",
                "Training diverges without some examples: lower the learning rate.",
            )
        return values


@dataclass(frozen=True, kw_only=True)
class BaseModels(CounterfactualStep):
    """Models trained on all examples, which counterfactual ones are compared with."""

    NAME: ClassVar[str] = "counterfactual-base"
    VERSION: ClassVar[int] = 1

    def run(self, context: RunContext, writer: ArtifactWriter) -> None:
        """Retrain; store goodness and correctness of the whole test split, ``[R, N]``."""
        everything = np.arange(len(context.test_split[context.task.label_key]))
        (values,) = self.retrain_without(context, [np.empty(0, int)], everything)
        writer.array("goodness", np.ascontiguousarray(values[..., 0]))
        writer.array("correct", np.ascontiguousarray(values[..., 1]))


def plan_base_models(planning: Planning, seeds: int) -> BaseModels:
    """Add the models trained on everything."""
    return planning.steps.add(
        BaseModels(
            seeds=seeds,
            seed=planning.study.seed,
            examples=planning.examples,
            label=f"retrain on everything, {seeds} seed{'s' if seeds > 1 else ''}",
            cost=Cost(seeds * planning.retraining_seconds, planning.sizes.training, models=seeds),
        )
    )


@dataclass(frozen=True)
class Selected:
    """What a selector means in a study.

    Attributes:
        selector: With the α that it leaves open.
        planned: Its configuration.
        sources: Of the models that take part.
        evaluation: Of the configuration, where the selector asks for the best λ.
    """

    selector: Selector
    planned: Planned
    sources: tuple[Step, ...]
    evaluation: Step | None


def selected(planning: Planning, configurations: Sequence[Planned], selector: Selector) -> Selected:
    """Return what a selector means, with the steps that its scores and its λ need."""
    configuration = choose([planned.configuration for planned in configurations], selector)
    planned = next(each for each in configurations if each.configuration == configuration)
    sources = planned.sources[: selector.seeds or len(planned.sources)]
    if selector.content.get("regularization") != BEST:
        return Selected(selector, planned, sources, None)
    alpha = selector.alpha if "alpha" in selector.content else planning.study.ground_truth.alphas[0]
    return Selected(selector.changed(alpha=alpha), planned, sources, planned.evaluation)
