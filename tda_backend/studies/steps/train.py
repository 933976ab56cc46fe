"""The steps that train: the attributed models, models of half the data, and retrained subsets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from tda_backend.errors import DataError
from tda_backend.models.checking.verification import verify_checkpoint
from tda_backend.models.measuring.pace import Line
from tda_backend.models.training.checkpoints import load_checkpoints
from tda_backend.models.training.fit import model_from, train
from tda_backend.models.training.outputs import Evaluation, evaluate
from tda_backend.models.training.retraining.cost import training_seconds
from tda_backend.models.training.retraining.plan import Retraining
from tda_backend.models.training.retraining.retraining import retrain_subsets
from tda_backend.models.training.retraining.subsets import subset_masks
from tda_backend.models.training.routes.schedule import steps_per_epoch
from tda_backend.models.training.routes.stages import attributed_rows
from tda_backend.models.training.run import TrainingRun
from tda_backend.seeds import hashed_seed
from tda_backend.studies.config.study import Study
from tda_backend.studies.pipeline.context import RunContext, checkpoint_name
from tda_backend.studies.pipeline.facts import TaskFacts
from tda_backend.studies.pipeline.plan import Steps
from tda_backend.studies.pipeline.planning import Planning
from tda_backend.studies.pipeline.sizes import GIB, SAID_ROWS, Sizes
from tda_backend.studies.pipeline.step import Cost, Step, about, needs
from tda_backend.studies.pipeline.times import LEAST_SECONDS, forward, verifying
from tda_backend.studies.steps.examples import DISPLAYS, label_text
from tda_backend.studies.store.artifact import Artifact
from tda_backend.studies.store.artifacts import ArtifactWriter
from tda_backend.studies.store.drop import Drop
from tda_backend.studies.store.tables.examples import PREDICTIONS
from tda_backend.studies.store.tables.models import CHECKPOINTS, RETRAININGS
from tda_backend.types import Checkpoint, Task

FIRST_CHUNK, NEXT_CHUNK = 20, 10
"""Subsets of the first step of retraining, after which something is shown, and of each later one."""
_SAID_BYTES = 200
"""Of what the table of predictions holds of one example, while it is made."""
_STORED_BYTES = 10
"""Of the same on the disk."""
ALWAYS = 10**6
"""The pool of worker processes is wanted however far ahead the next such step is."""


@dataclass(frozen=True, kw_only=True)
class Train(Step):
    """The attributed model of one training seed, or given checkpoints.

    Attributes:
        epochs: Checkpoints that are kept.
        seed: Of the run.
        seed_index: Which of the study's training seeds.
    """

    NAME: ClassVar[str] = "train"
    VERSION: ClassVar[int] = 1
    UNIT: ClassVar[str] = "epochs"
    TABLES = (CHECKPOINTS, PREDICTIONS)
    IS_FOUNDATION: ClassVar[bool] = True
    IS_SHARED: ClassVar[bool] = True

    epochs: Sequence[int]
    seed: int
    examples: Step = needs()
    seed_index: int = about(0, ingested=True)

    @classmethod
    def ingest(cls, drop: Drop) -> None:
        """Insert the rows; predictions that are there are kept, for they may have newer names."""
        known = PREDICTIONS in cls.TABLES and drop.holds(PREDICTIONS, seed_index=drop.value("seed_index"))
        drop.insert_tables(table for table in cls.TABLES if not (known and table is PREDICTIONS))

    def run(self, context: RunContext, writer: ArtifactWriter) -> None:
        """Train (or load given checkpoints); store checkpoints and what the final model says."""
        checkpoints = self._checkpoints(context)
        kept = [checkpoint for checkpoint in checkpoints if checkpoint.epoch in self.epochs]
        _verify(context, self.examples, kept)
        for checkpoint in kept:
            writer.tensors(checkpoint_name(checkpoint.epoch), checkpoint.state)
        records = [
            {
                "training_epoch": each.epoch,
                "learning_rate": each.learning_rate,
                "file": f"{checkpoint_name(each.epoch)}.safetensors",
            }
            for each in kept
        ]
        writer.table("checkpoints", CHECKPOINTS.rows(records))
        writer.facts["learning_rates"] = {str(each.epoch): each.learning_rate for each in kept}
        model = model_from(context.task, checkpoints[-1].state)
        says = {
            split: evaluate(context.task, model, context.data[split], context.device) for split in ("train", "test")
        }
        parts = [prediction_rows(context.task, split, found) for split, found in says.items()]
        writer.table(PREDICTIONS.name, PREDICTIONS.of_frame(pd.concat(parts, ignore_index=True)))
        if context.facts.displays is not None:  # its words may change without the rest
            writer.facts[DISPLAYS] = context.facts.displays
            for split, found in says.items():
                if found.prediction is not None:
                    writer.array(predicted_name(split), found.prediction)

    def _checkpoints(self, context: RunContext) -> list[Checkpoint]:
        facts, rows = context.facts, context.positions(self.examples).train
        if not facts.trains:
            return load_checkpoints(context.task, self.seed_index)
        # The final model is what predictions and retrainings refer to.
        epochs = sorted({*self.epochs, facts.num_epochs})
        run = TrainingRun(context.task, context.data, rows, self.seed, context.device)
        return train(run, epochs, context.on_progress, seed_index=self.seed_index)


def _verify(context: RunContext, examples: Step, checkpoints: Sequence[Checkpoint]) -> None:
    """Raise a TaskError where the task breaks its contract at a checkpoint: its gradients would be wrong."""
    for checkpoint in checkpoints:
        verify_checkpoint(context.question(examples, model_from(context.task, checkpoint.state)))


def predicted_name(split: str) -> str:
    """Return what a training run's artifact calls the predictions on a split, as numbers."""
    return f"predicted-{split}"


def prediction_rows(task: Task, split: str, says: Evaluation) -> pd.DataFrame:
    """Return what a model says of each example of a split, in the task's words."""
    count = len(says.goodness)
    known = [None] * count if says.prediction is None else says.prediction
    texts = [None if value is None else label_text(task, value) for value in known]
    return pd.DataFrame(
        {
            "split": split,
            "index": np.arange(count, dtype=np.int32),
            "prediction": pd.array(texts, dtype="str"),
            "goodness": says.goodness.numpy(),
            "loss": says.loss.numpy(),
        }
    )


@dataclass(frozen=True, kw_only=True)
class TrainHalf(Step):
    """One model of TRAK's ensemble, trained on a random half of the data (TRAK, arXiv 2303.14186, §3.2).

    Attributes:
        epochs: Checkpoints that are kept.
        subset: Which of the random subsets.
        alpha: Its share of the training rows.
        subset_seed: Of the draw of all subsets.
        seed: Of the run.
    """

    NAME: ClassVar[str] = "train-half"
    VERSION: ClassVar[int] = 1
    UNIT: ClassVar[str] = "epochs"

    epochs: Sequence[int]
    subset: int
    alpha: float
    subset_seed: int
    seed: int
    examples: Step = needs()

    def run(self, context: RunContext, writer: ArtifactWriter) -> None:
        """Train; store checkpoints and which rows the model has seen."""
        rows = context.positions(self.examples).train
        drawn = attributed_rows(context.task, context.train_split, rows)
        mask = subset_masks(len(rows), self.alpha, self.subset + 1, self.subset_seed, drawn)[self.subset]
        run = TrainingRun(context.task, context.data, rows[mask], self.seed, context.device)
        checkpoints = train(run, self.epochs, context.on_progress)
        _verify(context, self.examples, checkpoints)
        for checkpoint in checkpoints:
            writer.tensors(checkpoint_name(checkpoint.epoch), checkpoint.state)
        writer.array("mask", mask)


def plan_half_models(planning: Planning, count: int) -> list[TrainHalf]:
    """Add models trained on random halves of the data; a smaller ensemble is the start of a larger one."""
    study = planning.study
    return [
        planning.steps.add(
            TrainHalf(
                epochs=study.training.epochs,
                subset=number,
                alpha=0.5,
                subset_seed=hashed_seed("half-subsets", study.seed),
                seed=hashed_seed("half-training", study.seed, number),
                examples=planning.examples,
                label=f"train half-subset model {number + 1}",
                cost=Cost(
                    planning.model_seconds / 2,
                    planning.sizes.training,
                    models=1,
                    stored_gib=planning.sizes.numbers(len(study.training.epochs), planning.sizes.num_parameters),
                ),
            )
        )
        for number in range(count)
    ]


@dataclass(frozen=True, kw_only=True)
class Retrain(Step):
    """A chunk of the random subsets that LDS is measured against, retrained.

    Attributes:
        alpha: Share of the training rows in each subset.
        first: Number of the first subset.
        last: Number after the last one.
        repeats: Models of each subset.
        seed: Of subsets and runs.
    """

    NAME: ClassVar[str] = "retrain"
    VERSION: ClassVar[int] = 1
    UNIT: ClassVar[str] = "model-epochs"
    TABLES = (RETRAININGS,)
    IS_FOUNDATION: ClassVar[bool] = True
    IS_SHARED: ClassVar[bool] = True
    POOL_REACH: ClassVar[int | None] = ALWAYS

    alpha: float
    first: int
    last: int
    repeats: int
    seed: int
    examples: Step = needs()

    def context(self) -> dict[str, Any]:
        """Return α, which rows of the catalogue carry."""
        return {**super().context(), "alpha": self.alpha}

    def run(self, context: RunContext, writer: ArtifactWriter) -> None:
        """Retrain; store goodness on the whole test set, ``[S, repeats, N]``, and the subsets, ``[S, n]``."""
        rows = context.positions(self.examples).train
        drawn = attributed_rows(context.task, context.train_split, rows)
        chunk = subset_masks(len(rows), self.alpha, self.last, self.seed, drawn)[self.first :]
        ids = list(range(self.first, self.last))
        retraining = Retraining(
            context.task,
            context.data,
            rows,
            chunk,
            ids,
            repeats=self.repeats,
            seed=self.seed,
            device=context.device,
        )
        outputs = retrain_subsets(retraining, on_progress=context.on_progress)
        values = np.asarray(outputs, dtype=np.float32)
        self._refuse_bad(values, ids)
        writer.array("outputs", values)
        writer.array("masks", chunk)
        records = [
            {
                "subset_index": number,
                "repeat": repeat,
                "subset_size": int(chunk[row].sum()),
                "mean_goodness": float(values[row, repeat].mean()),
            }
            for row, number in enumerate(ids)
            for repeat in range(self.repeats)
        ]
        writer.table("retrainings", RETRAININGS.rows(records))

    def _refuse_bad(self, values: np.ndarray, ids: Sequence[int]) -> None:
        bad = ~np.isfinite(values)
        if bad.any():
            subset, repeat, example = (int(axis) for axis in np.argwhere(bad)[0])
            raise DataError(
                f"{int(bad.sum())} outputs of retrained models are not finite "
                f"(first: subset {ids[subset]}, repeat {repeat}, test example {example}).",
                "The training diverges on subsets: lower the learning rate.",
            )


@dataclass(frozen=True, kw_only=True)
class Downsample(Retrain):
    """A chunk of the subsets that empirical influence retrains for itself, never those of LDS."""

    NAME: ClassVar[str] = "downsample"
    TABLES = ()
    IS_FOUNDATION: ClassVar[bool] = False
    IS_SHARED: ClassVar[bool] = False

    @classmethod
    def ingest(cls, drop: Drop) -> None:
        """Bring nothing into the catalogue: the subsets are the method's own."""


def plan_training(steps: Steps, study: Study, facts: TaskFacts, examples: Step, epochs: Sequence[int]) -> list[Train]:
    """Add the training run of each of the study's seeds, with checkpoints at ``epochs``."""
    num_seeds, cost = study.training.seeds, _training_cost(study, facts)
    return [
        steps.add(
            Train(
                epochs=epochs,
                seed=hashed_seed("training", study.seed, seed) if facts.trains else 0,
                examples=examples,
                seed_index=seed,
                label="train" if num_seeds == 1 else f"train seed {seed}",
                cost=cost,
            )
        )
        for seed in range(num_seeds)
    ]


def _training_cost(study: Study, facts: TaskFacts) -> Cost:
    """Return what training takes, with what verifies checkpoints and says of every example what the last one does."""
    sizes = Sizes.of(study, facts)
    after = verifying(sizes, len(study.training.epochs)) + forward(sizes, facts.num_train + facts.num_test)
    epochs, examples = len(study.training.epochs), facts.num_train + facts.num_test
    stored = sizes.numbers(epochs, sizes.num_parameters) + examples * _STORED_BYTES / GIB
    seconds = training_seconds_of(study, facts) + after + LEAST_SECONDS
    return Cost(seconds, _training_gib(sizes, study, facts), models=1, stored_gib=stored)


def _training_gib(sizes: Sizes, study: Study, facts: TaskFacts) -> float:
    """Return what training holds: a model's state and checkpoints, and what it says of every example."""
    kept = sizes.numbers(1 + len(study.training.epochs), sizes.num_parameters)
    said = (facts.num_train + facts.num_test) * _SAID_BYTES / GIB
    return kept + said + max(sizes.training, sizes.verifying)


def training_seconds_of(study: Study, facts: TaskFacts) -> float:
    """Return the estimated seconds of one training run on all of a study's examples."""
    settings, step = facts.task.training, facts.pace.step_seconds
    if settings is None or not facts.trains:
        return 0.0
    if step == Line():  # no steps, or none that could be measured
        return training_seconds(facts.task, study.data.train)
    num_train = study.data.train
    return settings.num_epochs * step.of(num_train, steps_per_epoch(settings, num_train))


def plan_subsets(planning: Planning, alpha: float, first: int, last: int) -> Retrain:
    """Add the retraining of some of the subsets at one α."""
    truth = planning.study.ground_truth
    at = "" if len(truth.alphas) == 1 else f" at α={alpha:g}"
    return planning.steps.add(
        Retrain(
            alpha=alpha,
            first=first,
            last=last,
            repeats=truth.repeats,
            seed=planning.study.seed,
            examples=planning.examples,
            label=f"retrain subsets {first + 1}–{last}{at}",
            cost=_cost_of_subsets(planning, (last - first) * truth.repeats, alpha),
        )
    )


def plan_downsampled(planning: Planning, total: int, alpha: float) -> list[Downsample]:
    """Add the retraining of the subsets of empirical influence."""
    chunks = [(first, min(first + NEXT_CHUNK, total)) for first in range(0, total, NEXT_CHUNK)]
    return [
        planning.steps.add(
            Downsample(
                alpha=alpha,
                first=first,
                last=last,
                repeats=1,
                seed=hashed_seed("downsampling", planning.study.seed),
                examples=planning.examples,
                label=f"retrain own subsets {first + 1}–{last} of empirical influence",
                cost=_cost_of_subsets(planning, last - first, alpha),
            )
        )
        for first, last in chunks
    ]


def _cost_of_subsets(planning: Planning, models: int, alpha: float) -> Cost:
    sizes, test = planning.sizes, planning.facts.num_test
    seconds = models * (alpha * planning.retraining_seconds + forward(sizes, test))
    copies = 2 * sizes.num_train * sizes.example_bytes / GIB  # of the data, one for the training processes
    stored = models * (4 * test + sizes.num_train) / GIB  # float32 values, and which examples each has seen
    held = copies + sizes.forward(min(SAID_ROWS, test))
    return Cost(seconds + LEAST_SECONDS, held, models=models, stored_gib=stored)


def read_outputs(artifacts: Sequence[Artifact], indices: np.ndarray | Sequence[int]) -> np.ndarray:
    """Return retrained models' goodness ``[S, m]`` at test ``indices``, averaged over repeats."""
    columns = np.asarray(indices, dtype=np.int64)
    parts = [each.array("outputs")[:, :, columns].mean(axis=1, dtype=np.float64) for each in artifacts]
    return np.concatenate(parts).astype(np.float32)


def read_masks(artifacts: Sequence[Artifact]) -> np.ndarray:
    """Return which training positions each retrained subset holds, bool ``[S, n]``."""
    return np.concatenate([each.array("masks") for each in artifacts])
