"""What steps work with: the plan, the data, the store, and what the spectra of one checkpoint share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from tda_backend.features.checkpoint_features import CheckpointFeatures
from tda_backend.runs.plan import Plan, Step
from tda_backend.runs.study_data import split_indices, study_labels
from tda_backend.store.artifacts import ArtifactStore
from tda_backend.training.data import validate_data
from tda_backend.training.fit import model_from
from tda_backend.types import Batch, Task

Progress = Callable[[int, int], None]


@dataclass
class Memo:
    """What the spectra of one checkpoint share and nothing stores: its Gram matrix and its random features."""

    features_key: str = ""
    features: CheckpointFeatures | None = None
    gram: Tensor | None = None
    projected: Tensor | None = None

    def clear(self) -> None:
        """Free everything."""
        self.features_key, self.features, self.gram, self.projected = "", None, None, None


@dataclass
class RunContext:
    """What steps work with.

    Attributes:
        plan: The study's plan.
        data: The task's train and test splits.
        store: Where artifacts lie.
        on_progress: Called with (done, total) units of the present step.
        needed_later: Keys of spectra still to come in this run; decides when shared matrices are freed.
        clean_labels: Labels of the train split before the study flipped some, ``[N]``; ``None``: it flips none.
    """

    plan: Plan
    data: dict[str, Batch]
    store: ArtifactStore
    on_progress: Progress = lambda done, total: None
    memo: Memo = field(default_factory=Memo)
    needed_later: frozenset[str] = frozenset()
    clean_labels: Tensor | None = None

    @classmethod
    def begin(cls, plan: Plan, store: ArtifactStore) -> RunContext:
        """Return the context of a plan, its task's data loaded and the study's labels flipped."""
        task, settings = plan.facts.task, {**plan.config["data"], "seed": plan.config["seed"]}
        data: dict[str, Batch] = dict(validate_data(task))
        if "flip_labels" not in settings:
            return cls(plan, data, store)
        rows = split_indices(settings, plan.facts.num_train, plan.facts.num_test)["train"]
        train, key = data["train"], task.label_key
        noisy = {**train, key: study_labels(task, data, settings, rows)}
        return cls(plan, {**data, "train": noisy}, store, clean_labels=train[key])

    @property
    def task(self) -> Task:
        return self.plan.facts.task

    @property
    def device(self) -> str:
        return self.plan.device

    def positions(self, step: Step) -> dict[str, np.ndarray]:
        """Return the data-set indices of train, validation and queries."""
        artifact = self.store.open(step.inputs["examples"][0])
        return {name: artifact.array(name, mmap=False) for name in ("train", "validation", "queries")}

    def model(self, step: Step, epoch: int) -> nn.Module:
        """Return the model of the step's training run at the end of an epoch."""
        return model_from(self.task, self.store.open(step.inputs["train"][0]).tensors(f"epoch-{epoch:04d}"))

    def examples(self, step: Step) -> tuple[Tensor, Tensor, Tensor]:
        """Return the data-set indices of train, validation and queries as tensors."""
        indices = self.positions(step)
        train, validation, queries = (torch.from_numpy(indices[k]) for k in ("train", "validation", "queries"))
        return train, validation, queries
