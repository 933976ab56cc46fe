"""The steps that unroll training runs: predictions, the truth, and what predictions miss.

Predictions are computed in float32, as they would be at any size; the truth and the error proxy are differences of
nearly equal losses and take float64. Both precisions train the same run: same seed, batches and rates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch

from tda_backend.models.tasks.settings import training_settings
from tda_backend.models.training.routes.schedule import steps_per_epoch
from tda_backend.models.training.run import TrainingRun, reproducible
from tda_backend.numerics.trajectory.unrolled.error_proxy import error_proxies
from tda_backend.numerics.trajectory.unrolled.influence import Variant, unrolled_influences
from tda_backend.numerics.trajectory.unrolled.queries import Queries
from tda_backend.numerics.trajectory.unrolled.recording import record
from tda_backend.numerics.trajectory.unrolled.removal import VARIANTS, removal_effects
from tda_backend.numerics.trajectory.unrolled.trajectory import Trajectory
from tda_backend.seeds import hashed_rng, hashed_seed
from tda_backend.studies.config.study import Study
from tda_backend.studies.pipeline.context import RunContext
from tda_backend.studies.pipeline.facts import TaskFacts
from tda_backend.studies.pipeline.planning import Planning
from tda_backend.studies.pipeline.step import Cost, Step, about, needs
from tda_backend.studies.store.artifacts import ArtifactWriter


@dataclass(frozen=True, kw_only=True)
class UnrolledStep(Step):
    """A step that trains a run anew and records it, to say what leaving out each of R examples changes.

    Attributes:
        learning_rate: η₀ of the run.
        seed: Of the run.
        removed: R.
        choice: Seed of the draw of these examples.
        budget_gib: Of stored steps; what does not fit is computed again.
        seed_index: Which of the section's runs at this learning rate.
    """

    learning_rate: float
    seed: int
    removed: int
    choice: int
    budget_gib: float
    examples: Step = needs()
    seed_index: int = about(0, ingested=True)

    def context(self) -> dict[str, Any]:
        """Return learning rate and seed, which rows of the catalogue carry."""
        return {**super().context(), "learning_rate": self.learning_rate}

    def recorded(self, context: RunContext, dtype: torch.dtype) -> Trajectory:
        """Train the run and record it."""
        rows = context.positions(self.examples).train
        return record(
            TrainingRun(context.task, context.data, rows, self.seed, context.device),
            settings=replace(training_settings(context.task), learning_rate=self.learning_rate),
            dtype=dtype,
            budget_gib=self.budget_gib,
            folder=context.snapshot_folder(self),
        )

    def left_out(self, context: RunContext) -> tuple[np.ndarray, np.ndarray]:
        """Return the positions left out and their rows of the train split, ``[R]`` each."""
        train = context.positions(self.examples).train
        positions = removed_positions(len(train), self.removed, self.choice)
        return positions, train[positions]

    def queries(self, context: RunContext) -> Queries:
        """Return the study's queries: their losses are asked for."""
        return Queries(torch.from_numpy(context.positions(self.examples).queries), quantity="loss")


@dataclass(frozen=True, kw_only=True)
class PredictEffects(UnrolledStep):
    """What unrolling says that leaving out each of R examples does to each query's loss.

    Attributes:
        curvatures: Second derivatives of a batch.
    """

    NAME: ClassVar[str] = "trajectory-influence"
    VERSION: ClassVar[int] = 1

    curvatures: Sequence[str]

    def run(self, context: RunContext, writer: ArtifactWriter) -> None:
        """Store the predictions, ``[R, m]`` a variant."""
        trajectory = self.recorded(context, torch.float32)
        positions, _ = self.left_out(context)
        found = unrolled_influences(
            trajectory, self.queries(context), variants_of(self.curvatures), on_progress=context.on_progress
        )
        writer.array("positions", positions)
        for variant, influence in found.items():
            writer.array(score_file(variant), influence.scores[:, positions].T.to("cpu", torch.float32))
        writer.facts |= {
            "optimizer": trajectory.settings.optimizer_text,
            "num_steps": trajectory.num_steps,
            "num_parameters": trajectory.num_parameters,
            "interval": trajectory.interval,
        }


@dataclass(frozen=True, kw_only=True)
class TrueEffects(UnrolledStep):
    """What leaving out each of R examples really does: the run is trained again without it.

    Attributes:
        horizons: Steps at which effects are looked at.
    """

    NAME: ClassVar[str] = "trajectory-truth"
    VERSION: ClassVar[int] = 1

    horizons: int

    def run(self, context: RunContext, writer: ArtifactWriter) -> None:
        """Store the effects: at the end ``[R, m]``, over the steps ``[H, R]``."""
        trajectory = self.recorded(context, torch.float64)
        positions, rows = self.left_out(context)
        horizons = horizon_steps(trajectory.num_steps, self.horizons)
        writer.array("positions", positions)
        writer.array("horizons", np.array(horizons))
        for number, variant in enumerate(VARIANTS):
            with reproducible(context.device):  # small products: threads would wait for each other
                effects = removal_effects(
                    trajectory,
                    torch.from_numpy(rows),
                    self.queries(context),
                    variant=variant,
                    horizons=horizons,
                    on_progress=lambda done, total, before=number: context.on_progress(
                        before * total + done, len(VARIANTS) * total
                    ),
                )
            writer.array(f"effects_{variant}", effects.effects.cpu())
            writer.array(f"horizons_{variant}", effects.at_horizons.cpu())
            if variant == VARIANTS[0]:
                writer.array("losses", effects.base_at_horizons.cpu())
        writer.array("rates", np.array(trajectory.rates))
        steps = trajectory.num_steps
        writer.facts |= {
            "seen": [list(trajectory.steps_of(int(row))) for row in rows],
            "optimizer": trajectory.settings.optimizer_text,
            "num_steps": steps,
            "steps_per_epoch": steps // trajectory.settings.num_epochs,
            "num_parameters": trajectory.num_parameters,
        }


@dataclass(frozen=True, kw_only=True)
class EstimateError(UnrolledStep):
    """The second-order estimate of what the prediction misses.

    Attributes:
        horizons: Steps at which the error is looked at.
        curvature: Of the prediction.
    """

    NAME: ClassVar[str] = "trajectory-proxy"
    VERSION: ClassVar[int] = 1

    horizons: int
    curvature: str

    def run(self, context: RunContext, writer: ArtifactWriter) -> None:
        """Store the estimate, at the end and over the steps."""
        trajectory = self.recorded(context, torch.float64)
        _, rows = self.left_out(context)
        with reproducible(context.device):
            proxies = error_proxies(
                trajectory,
                torch.from_numpy(rows),
                self.queries(context),
                horizons=horizon_steps(trajectory.num_steps, self.horizons),
                on_progress=context.on_progress,
            )
        for name in ("prediction", "cheap", "full", "prediction_at", "cheap_at", "full_at"):
            writer.array(name, getattr(proxies, name).cpu())


def removed_positions(num_train: int, count: int, seed: int) -> np.ndarray:
    """Return the training positions that a study leaves out, one at a time: drawn at random, ascending, ``[R]``."""
    return np.sort(hashed_rng("removed", seed).permutation(num_train)[:count])


def horizon_steps(num_steps: int, count: int) -> list[int]:
    """Return up to ``count`` numbers of steps, equally spaced, the last one all of them."""
    return sorted({max(1, round(num_steps * number / count)) for number in range(1, count + 1)})


def variants_of(curvatures: Sequence[str]) -> list[Variant]:
    """Return what a study predicts by: the optimizer as trained with each curvature, and SGD with the first."""
    return [*(Variant("as trained", kind) for kind in curvatures), Variant("sgd", curvatures[0])]  # type: ignore[arg-type]  # checked by the study's rules


def score_file(variant: Variant) -> str:
    """Return the name of the array with a variant's predictions."""
    return f"predicted_{variant.assume.replace(' ', '-')}_{variant.curvature}"


@dataclass(frozen=True)
class UnrolledRun:
    """The steps about one run.

    Attributes:
        at: The run in words.
        influence: What is predicted.
        truth: What is true.
        proxy: What the prediction misses; ``None``: not estimated.
    """

    at: str
    influence: PredictEffects
    truth: TrueEffects
    proxy: EstimateError | None


def plan_run(planning: Planning, rate: float, number: int) -> UnrolledRun:
    """Add the steps that unroll one run of the section on unrolling."""
    study, training = planning.study, planning.facts.task.training
    section = study.trajectory
    assert section is not None
    assert training is not None
    steps = num_steps(study, planning.facts)
    # Seconds on one core per product of a batch's curvature with one vector, about.
    product = 1e-9 * planning.facts.num_parameters * training.batch_size / 3
    at = run_words(rate, number, section.seeds)
    common: dict[str, Any] = {
        "learning_rate": rate,
        "seed": run_seed(study, number),
        "removed": section.removed,
        "choice": study.seed,
        "budget_gib": section.budget_gib,
        "examples": planning.examples,
        "seed_index": number,
    }
    influence = planning.steps.add(
        PredictEffects(
            **common,
            curvatures=section.curvatures,
            label=f"unroll the run at {at}",
            cost=Cost(steps * study.data.queries * product * (len(section.curvatures) + 1)),
        )
    )
    truth = planning.steps.add(
        TrueEffects(
            **common,
            horizons=section.horizons,
            label=f"train without each of {section.removed} at {at}",
            cost=Cost(steps * section.removed * product),
        )
    )
    if not section.proxy:
        return UnrolledRun(at, influence, truth, None)
    proxy = planning.steps.add(
        EstimateError(
            **common,
            horizons=section.horizons,
            curvature=section.curvatures[0],
            label=f"estimate the error at {at}",
            cost=Cost(4 * steps * section.removed * product),
        )
    )
    return UnrolledRun(at, influence, truth, proxy)


def run_words(rate: float, number: int, num_seeds: int) -> str:
    """Return how labels name a run at one of several learning rates."""
    return f"η={rate:g}" + ("" if num_seeds == 1 else f", seed {number}")


def usual_rate(facts: TaskFacts) -> float:
    """Return the task's own learning rate, for sections that name none."""
    training = facts.task.training
    assert training is not None
    return training.learning_rate


def num_steps(study: Study, facts: TaskFacts) -> int:
    """Return the steps of one run."""
    training = facts.task.training
    assert training is not None
    return steps_per_epoch(training, study.data.train) * training.num_epochs


def run_seed(study: Study, number: int) -> int:
    """Return the training seed of a run: the same as of the study's trained model of that number."""
    return hashed_seed("training", study.seed, number)
