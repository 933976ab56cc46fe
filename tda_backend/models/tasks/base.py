"""The base classes that make a person's own classification or regression task short."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from tda_backend.types import Batch, Task


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the classification margin f = log(p_y / (1 − p_y)) of each row, ``[b]``.

    Computed as ``logit_y − logsumexp(other logits)``: the form log p − log(1 − p) overflows as p → 1
    (METHODS.md §0; Park et al. 2023, TRAK, §3).

    Args:
        logits: ``[b, classes]``.
        labels: Integer ``[b]``.
    """
    rows = labels[:, None]
    others = logits.scatter(1, rows, -torch.inf)
    return logits.gather(1, rows)[:, 0] - others.logsumexp(dim=1)


class ClassificationTask(Task):
    """Cross-entropy training, the margin as measurement, and images as display.

    A subclass gives ``name``, ``num_classes``, ``training``, :meth:`datasets` with keys ``x`` and ``y``, and
    :meth:`build_model`. Override :meth:`logits` for models that take more than ``x``.
    """

    measurement_sign = 1
    margin_identity = True
    input_key = "x"

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the class scores, ``[b, classes]``."""
        return model(batch[self.input_key])

    def train_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the cross-entropy −log p_y of each example, ``[b]``."""
        return functional.cross_entropy(self.logits(model, batch), batch[self.label_key], reduction="none")

    def measurement(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the :func:`margin` of each example, ``[b]``."""
        return margin(self.logits(model, batch), batch[self.label_key])

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the logits, ``[b, classes]``."""
        return self.logits(model, batch)

    def output_loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return the cross-entropy of given logits, ``[b]``."""
        return functional.cross_entropy(outputs, batch[self.label_key], reduction="none")

    def sample_targets(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """Return labels drawn from the softmax of the logits, int64 ``[b]``."""
        return torch.multinomial(outputs.softmax(dim=1), 1, generator=generator)[:, 0]

    def predict(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the most likely class of each example, int64 ``[b]``."""
        return self.logits(model, batch).argmax(dim=1)


class RegressionTask(Task):
    """Squared-error training, the absolute error as measurement, and a target written in its own unit.

    Loss (ŷ − y)², as the papers train: minus the log-density of a normal distribution of variance ½, up to a constant.
    Inputs and targets are standardised by :meth:`datasets`; ``target_mean`` and ``target_std`` lead back.

    A subclass gives ``name``, ``training``, :meth:`datasets` with keys ``x`` float ``[N, d]`` and ``y`` float ``[N]``,
    and :meth:`build_model`, whose model gives ``[b, 1]``.

    Attributes:
        target_mean: Mean of the targets before standardising.
        target_std: Their standard deviation.
        target_unit: Their unit.
    """

    measurement_sign = -1
    input_key = "x"
    target_mean: float = 0.0
    target_std: float = 1.0
    target_unit: str = ""

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the predicted mean ŷ, ``[b, 1]``."""
        return model(batch[self.input_key])

    def train_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the squared error (ŷ − y)² of each example, ``[b]``."""
        return self.output_loss(self.outputs(model, batch), batch)

    def measurement(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the absolute error |ŷ − y| of each example, ``[b]``, in standard deviations of the target."""
        return (self.outputs(model, batch)[:, 0] - batch[self.label_key]).abs()

    def output_loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return the squared error of given predictions, ``[b]``."""
        return (outputs[:, 0] - batch[self.label_key]).square()

    def sample_targets(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """Return targets drawn from the normal distribution of mean ŷ and variance ½, ``[b]``.

        With this variance −log p is the loss up to a constant, so that the true Fisher is the Gauss–Newton matrix.
        """
        noise = torch.randn(len(outputs), generator=generator, dtype=outputs.dtype)
        return outputs[:, 0] + noise / math.sqrt(2)

    def predict(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the predicted value of each example, ``[b]``, standardised like the targets."""
        return self.outputs(model, batch)[:, 0]

    def target_text(self, value: float) -> str:
        """Return a standardised target in its own unit."""
        return f"{value * self.target_std + self.target_mean:.4g} {self.target_unit}".rstrip()


def initialised(seed: int, build: Callable[[], nn.Module]) -> nn.Module:
    """Build a module from ``seed`` and leave the caller's random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def perceptron(sizes: Sequence[int], seed: int, dropout: float = 0.0) -> nn.Module:
    """Return Linear layers with ReLU (and dropout, if any) between them, in PyTorch's initialisation from ``seed``.

    Args:
        sizes: Widths from the input to the output, ``[L+1]``; two give a linear model.
        seed: Seed of the initialisation.
        dropout: Drop probability after each hidden layer.
    """

    def build() -> nn.Module:
        layers: list[nn.Module] = []
        for fan_in, fan_out in itertools.pairwise(sizes):
            if layers:
                layers += [nn.ReLU()] + [nn.Dropout(dropout)] * bool(dropout)
            layers.append(nn.Linear(fan_in, fan_out))
        return nn.Sequential(*layers)

    return initialised(seed, build)
