"""What steps work with: the plan, the data, the store, and what the spectra of one checkpoint share."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from tda_backend.blocks import BlockSizes
from tda_backend.models.precision import FULL, Precision
from tda_backend.models.probe import Probe, home_of
from tda_backend.models.tasks.data import validate_data
from tda_backend.models.tasks.examples import Draw, split_indices, study_labels
from tda_backend.models.training.fit import model_from
from tda_backend.numerics.features.checkpoint_features import CheckpointFeatures
from tda_backend.numerics.features.dense import BUDGET_NUMBERS
from tda_backend.studies.config.study import Study
from tda_backend.studies.pipeline.facts import TaskFacts
from tda_backend.studies.store.artifact import Artifact
from tda_backend.studies.store.artifacts import ArtifactStore
from tda_backend.types import Batch, Task

Progress = Callable[[int, int], None]


class PassesGradients(Protocol):
    """A step that takes gradients at a checkpoint."""

    @property
    def examples(self) -> Keyed | None:
        """The step that draws which examples take part."""
        ...

    @property
    def precision(self) -> Precision | None:
        """In which its passes are computed; ``None``: float32."""
        ...


class Keyed(Protocol):
    """What has a content key: a step."""

    @property
    def key(self) -> str:
        """Key of its artifact."""
        ...


def no_progress(done: int, total: int) -> None:
    """Tell nobody."""


@dataclass
class Memo:
    """What the spectra of one checkpoint share and nothing stores: its Gram matrix and its random features.

    Attributes:
        features_key: Of the checkpoint's gradients.
        features: These; without factors and Gram matrix once no later step takes them.
        gram: Their inner products.
        projected: What is projected at k_max, by draw.
    """

    features_key: str = ""
    features: CheckpointFeatures | None = None
    gram: Tensor | None = None
    projected: dict[tuple[str, int, int], Tensor] = field(default_factory=dict)

    def free_gradients(self) -> None:
        """Free what is projected or decomposed but once; goodness and losses stay."""
        self.gram = None
        if self.features is not None:
            self.features = replace(self.features, factors=None, gram=None, products=None, squares=None)

    def clear(self) -> None:
        """Free everything."""
        self.features_key, self.features, self.gram, self.projected = "", None, None, {}


@dataclass
class RunContext:
    """What steps work with.

    Attributes:
        study: What is computed.
        facts: The task's.
        device: Where passes run.
        data: The task's train and test splits.
        store: Where artifacts lie.
        on_progress: Called with (done, total) units of the present step.
        later: Steps still to be computed here after the present one; decides when shared matrices are freed.
        clean_labels: Labels of the train split before the study flipped some, ``[N]``; ``None``: it flips none.
        budget_numbers: Numbers in one block of dense gradients.
        block_sizes: Kind of step → how large its blocks may be, once memory has run out in one of its steps.
    """

    study: Study
    facts: TaskFacts
    device: str
    data: dict[str, Batch]
    store: ArtifactStore
    on_progress: Progress = no_progress
    memo: Memo = field(default_factory=Memo)
    later: Sequence[Keyed] = ()
    clean_labels: Tensor | None = None
    budget_numbers: int = BUDGET_NUMBERS
    block_sizes: dict[str, BlockSizes] = field(default_factory=dict)

    @property
    def train_split(self) -> Batch:
        """The task's training split."""
        return self.data["train"]

    @property
    def test_split(self) -> Batch:
        """The task's test split."""
        return self.data["test"]

    @classmethod
    def begin(
        cls, study: Study, facts: TaskFacts, device: str, store: ArtifactStore, block_share: float = 1.0
    ) -> RunContext:
        """Return the context of a study, its task's data loaded and the study's labels flipped.

        Args:
            study: What is computed.
            facts: Of its task.
            device: Where passes run.
            store: Where artifacts lie.
            block_share: Size of blocks of dense gradients, as a share of the usual one.
        """
        context = cls(study, facts, device, dict(validate_data(facts.task)), store)
        context.budget_numbers = int(BUDGET_NUMBERS * block_share)
        context._flip_labels()
        return context

    def _flip_labels(self) -> None:
        """Replace labels where the study asks for it, and remember the right ones."""
        study, facts = self.study, self.facts
        if study.data.flip_labels is None:
            return
        draw = Draw(study.data.train, study.data.validation, study.data.queries, study.seed, study.data.flip_labels)
        rows = split_indices(draw, facts.num_train, facts.num_test).train
        train, key = self.data["train"], facts.task.label_key
        self.clean_labels = train[key]
        self.data["train"] = {**train, key: study_labels(facts.task, train[key], draw, rows)}

    @property
    def task(self) -> Task:
        """The task."""
        return self.facts.task

    @property
    def home(self) -> torch.device:
        """Where coordinates and scores are computed."""
        return home_of(self.device)

    def open(self, step: Keyed) -> Artifact:
        """Return the result of a step."""
        return self.store.open(step.key)

    def open_all(self, steps: Sequence[Keyed]) -> list[Artifact]:
        """Return the results of several steps."""
        return [self.store.open(step.key) for step in steps]

    def positions(self, examples: Keyed) -> Positions:
        """Return which rows of the task's data take part."""
        return Positions.of(self.open(examples))

    def model(self, trained: Keyed, epoch: int) -> nn.Module:
        """Return the model of a training run at the end of an epoch."""
        return model_from(self.task, self.open(trained).tensors(checkpoint_name(epoch)))

    def question(self, examples: Keyed, model: nn.Module) -> Probe:
        """Return the question that a pass over ``model`` asks, of all examples that take part, in float32."""
        train, validation, queries = self.positions(examples).tensors()
        return Probe(self.task, model, self.data, train, validation, queries, self.device)

    def probe(self, step: PassesGradients, model: nn.Module) -> Probe:
        """Return the question that a step's pass over ``model`` asks: of all examples, in the step's precision."""
        assert step.examples is not None
        return replace(self.question(step.examples, model), precision=step.precision or FULL)

    def snapshot_folder(self, step: Keyed) -> Path:
        """Return where a step may lay snapshots; a run that is killed leaves them to be cleared by the next one."""
        return self.store.folder / "tmp" / f"steps-{os.getpid()}-{step.key[:12]}"


@dataclass(frozen=True)
class Positions:
    """Rows of the task's data that take part, int64.

    Attributes:
        train: ``[n]``, of the train split.
        validation: ``[v]``, of the test split.
        queries: ``[m]``, of the test split.
    """

    train: np.ndarray
    validation: np.ndarray
    queries: np.ndarray

    @classmethod
    def of(cls, artifact: Artifact) -> Positions:
        """Return the rows that the step of examples has stored."""
        return cls(*(artifact.array(name, mmap=False) for name in ("train", "validation", "queries")))

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return train, validation and queries as tensors."""
        return torch.from_numpy(self.train), torch.from_numpy(self.validation), torch.from_numpy(self.queries)


def checkpoint_name(epoch: int) -> str:
    """Return what a training run's artifact calls its checkpoint of an epoch."""
    return f"epoch-{epoch:04d}"
