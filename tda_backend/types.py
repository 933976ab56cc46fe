"""Central types. Sign and orientation are part of the type.

Everywhere in this project a score matrix is ``[m, n]`` = [query, train] and **positive means that the training
example helps**: adding weight to it raises the *goodness* of the query (margin up; loss or error down).
λ (``regularization``) is absolute, in units of the mean Gram ``F = JᵀJ/n``.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from tda_backend.errors import TaskError

Batch = Mapping[str, Tensor]
"""A dict of equally long tensors: the leading axis b enumerates examples."""


@dataclass(frozen=True)
class Display:
    """How one example is shown to a person.

    Attributes:
        kind: ``image`` (``image`` is uint8 ``[h, w]`` or ``[h, w, 3]``), ``text`` (``text``) or ``row`` (``row``).
        caption: A short plain-text description, used as alt text.
    """

    kind: Literal["image", "text", "row"]
    caption: str = ""
    image: np.ndarray | None = None
    text: str = ""
    row: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, repr=False)
class TrainingSettings:
    """Mini-batch training with one of PyTorch's optimizers. Schedules are fractions of the total steps.

    The last partial batch is kept and its loss is the mean over its own size. One step takes the raw mean gradient of
    the batch, clips it, applies the decay and lets the optimizer update; moments start at zero.

    Attributes:
        num_epochs: Epochs of a full run, ≥ 1.
        batch_size: Examples per step.
        learning_rate: η₀.
        momentum: Heavy-ball β of ``sgd`` (no dampening, no Nesterov); 0 for the others.
        weight_decay: ω: adds ω·θ to every gradient (L2 decay), or shrinks the parameters (``decoupled_decay``).
        schedule: How η falls over the run.
        optimizer: ``sgd``, ``adam``, ``adamw``, ``rmsprop`` (no momentum, not centred), or ``lbfgs``: the exact
            optimum of mean loss + ½·ω·‖θ‖² instead of a run of steps. It needs ω > 0, which makes the optimum of a
            convex loss unique, and ``num_epochs = 1``; what is about steps then means nothing.
        betas: β₁, β₂ of ``adam`` and ``adamw``: how much of each moment is kept in a step.
        eps: ε, added to the root of the second moment.
        smoothing: How much of the second moment ``rmsprop`` keeps in a step (PyTorch's ``alpha``).
        decoupled_decay: True: θ ← (1 − ηω)θ before the update, as AdamW does, instead of L2 decay. ``None``: for
            ``adamw`` only. AdamW without it would be Adam, so False is refused there.
        clip_norm: Largest norm of the raw mean gradient over all trainable parameters; a longer one is scaled down to
            it, before L2 decay is added. ``None``: no clipping.
        warmup: Fraction of all steps T over which η rises: step t (0-based) has the scheduled rate times
            min(1, (t + 1)/(warmup·T)).
    """

    num_epochs: int
    batch_size: int
    learning_rate: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    optimizer: Literal["sgd", "adam", "adamw", "rmsprop", "lbfgs"] = "sgd"
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    smoothing: float = 0.99
    decoupled_decay: bool | None = None
    clip_norm: float | None = None
    warmup: float = 0.0

    @property
    def decouples_decay(self) -> bool:
        """Whether weight decay shrinks the parameters themselves instead of being added to the gradient."""
        return self.optimizer == "adamw" if self.decoupled_decay is None else self.decoupled_decay

    @property
    def finds_optimum(self) -> bool:
        """Whether training finds the exact optimum instead of taking a run of steps."""
        return self.optimizer == "lbfgs"

    @property
    def is_plain_sgd(self) -> bool:
        """Whether a step is θ ← θ − ηv, v ← βv + g + ωθ and nothing else, as the hand-written routes compute it."""
        return self.optimizer == "sgd" and self.clip_norm is None and not self.decouples_decay

    @property
    def optimizer_text(self) -> str:
        """How a person names the optimizer, with what makes it other than its plain form."""
        names = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW", "rmsprop": "RMSProp", "lbfgs": "L-BFGS"}
        parts = [names[self.optimizer]]
        if self.optimizer in ("adam", "adamw"):
            parts.append(f"β {self.betas[0]:g}, {self.betas[1]:g}")
        if self.momentum:
            parts.append(f"momentum {self.momentum:g}")
        if self.weight_decay:
            kind = "decoupled " if self.decouples_decay and self.optimizer != "adamw" else ""
            parts.append(f"{kind}weight decay {self.weight_decay:g}")
        if self.clip_norm is not None:
            parts.append(f"gradients clipped to norm {self.clip_norm:g}")
        return ", ".join(parts)

    def __repr__(self) -> str:
        """Return the settings as text; those of other optimizers only where set.

        A task's identity hashes this text (:meth:`Task.source`): a field that is not set must not change it.
        """
        shown = [
            f"{each.name}={getattr(self, each.name)!r}"
            for number, each in enumerate(fields(self))
            if number < _ALWAYS_SHOWN or getattr(self, each.name) != each.default
        ]
        return f"TrainingSettings({', '.join(shown)})"


_ALWAYS_SHOWN = 7  # settings up to ``optimizer``


@dataclass(frozen=True)
class Stage:
    """One stage of multi-stage training (SOURCE, arXiv 2405.12186, §3.3 and §5.3).

    Attributes:
        name: What a person calls it.
        num_epochs: Its epochs; those of all stages add up to the task's ``training.num_epochs``.
        learning_rate: Its η₀, ``None`` for the task's. Batch size, momentum, decay and schedule are the task's; a
            schedule runs over the stage's own epochs.
    """

    name: str
    num_epochs: int
    learning_rate: float | None = None


class Task(ABC):
    """What is attributed: data, model, training loss and the measurement of a query.

    Subclass it and return an instance from a factory that takes no argument; give the factory on the command line as
    ``package.module:factory`` or ``path/to/file.py:factory``. ``tda check`` verifies the contract.

    Attributes:
        name: Short identifier, ``[a-z0-9-]+``.
        measurement_sign: +1 where a larger measurement is better (margin), −1 where smaller is better (loss, error).
            Applied once, where the measurement enters; every stored output and score is *goodness*.
        training: Training settings, or ``None`` for an already trained model (then ``checkpoint_files`` is given).
        checkpoint_files: State dicts of an already trained model, oldest first (loaded with ``weights_only=True``).
        margin_identity: True when ``∇train_loss = −(1−p)·∇measurement`` with ``p = sigmoid(measurement)``: the
            classification margin with cross-entropy. TRAK needs it; ``tda check`` verifies it.
        num_classes: Number of classes for classification, else ``None``.
        class_names: Names of the classes for display (empty: the numbers).
        label_key: Key of the target in a batch.
        pretrained: True: :meth:`build_model` starts from given weights whatever the seed, which then decides the order
            of the examples (and dropout) alone.
        stages: Stages of training, one after the other, each with a fresh optimizer and only its own examples; empty
            for ordinary training. Attributed are the examples of the first stage: retraining leaves some of them out
            and keeps all later ones.
        stage_key: Key of the stage's number, an integer tensor ``[N]`` in both splits, where there are stages.
    """

    name: str
    measurement_sign: int = 1
    training: TrainingSettings | None = None
    checkpoint_files: Sequence[Path] = ()
    margin_identity: bool = False
    num_classes: int | None = None
    class_names: Sequence[str] = ()
    label_key: str = "y"
    pretrained: bool = False
    stages: Sequence[Stage] = ()
    stage_key: str = "stage"

    @abstractmethod
    def datasets(self) -> dict[str, Any]:
        """Return ``{"train": …, "test": …}``: dicts of equally long tensors, or mapping-style sets of such rows."""

    @abstractmethod
    def build_model(self, seed: int) -> nn.Module:
        """Return a freshly initialised (or :attr:`pretrained`) model; the same seed gives the same bits."""

    @abstractmethod
    def train_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the unreduced training loss, ``[b]``."""

    @abstractmethod
    def measurement(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the measured quantity of each example, ``[b]``."""

    def predict(self, model: nn.Module, batch: Batch) -> Tensor | None:
        """Return the predicted class (integer) or value of each example, ``[b]``, or ``None`` if there is none."""
        return None

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return what the loss is a function of (logits, a regression's mean), ``[b, ...]``.

        Needed by the Gauss–Newton matrix and the true Fisher only.

        Raises:
            TaskError: The task does not say.
        """
        raise TaskError(
            f"Task {self.name!r} has no outputs(model, batch), which the Gauss–Newton matrix and the true Fisher need.",
            "Define outputs, output_loss and sample_targets, or choose the empirical Fisher.",
        )

    def output_loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return the training loss as a convex function of :meth:`outputs`, ``[b]``: equals :meth:`train_loss`."""
        raise TaskError(
            f"Task {self.name!r} has no output_loss(outputs, batch), which the Gauss–Newton matrix needs.",
            "Define outputs and output_loss, or choose the empirical Fisher.",
        )

    def sample_targets(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """Return targets drawn from the model's own distribution, one per example, in the form of ``label_key``."""
        raise TaskError(
            f"Task {self.name!r} has no sample_targets(outputs, generator), which the true Fisher needs.",
            "Define outputs and sample_targets, or choose the empirical Fisher.",
        )

    def show(self, split: str, index: int) -> Display:
        """Return how example ``index`` of ``split`` is displayed; override it for pictures, text or tables."""
        return Display("text", caption=f"{split} example {index}", text=f"{split} #{index}")

    def target_text(self, value: float) -> str:
        """Return how a target or a predicted value is written where it is no class: a regression's own unit."""
        return f"{value:g}"

    def noisy_rows(self) -> Tensor | None:
        """Return which training labels the task itself made wrong, bool ``[N]``, or ``None`` where that is unknown."""
        return None

    def source(self) -> str:
        """Return the text that identifies a task of the program; artifacts are keyed by its hash.

        A person's own task is identified by what it computes (:mod:`tda_backend.models.tasks.identity`); where it
        overrides this text, that counts too.
        """
        try:
            code = inspect.getsource(type(self))
        except (OSError, TypeError):
            code = type(self).__qualname__
        settings = f"{self.training!r}" + (f"\n{tuple(self.stages)!r} {self.stage_key}" if self.stages else "")
        return f"{self.name}\n{settings}\n{[str(p) for p in self.checkpoint_files]!r}\n{code}"


@dataclass(frozen=True)
class Checkpoint:
    """Parameters and buffers of one training run at the end of one epoch.

    Attributes:
        seed_index: Index of the training seed, 0-based.
        epoch: Number of completed epochs, ≥ 1.
        learning_rate: Learning rate in force at that epoch's end (TracIn's η).
        state: State dict on the CPU.
    """

    seed_index: int
    epoch: int
    learning_rate: float
    state: Mapping[str, Tensor]


def to_device(batch: Batch, device: torch.device | str) -> dict[str, Tensor]:
    """Return the batch with every tensor on ``device``."""
    return {key: value.to(device) for key, value in batch.items()}
