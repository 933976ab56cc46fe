"""The regression tasks on the shipped tables: UCI Concrete and Diabetes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from tda_backend.models.tasks.base import RegressionTask, perceptron
from tda_backend.models.tasks.data import shipped_arrays
from tda_backend.seeds import hashed_rng
from tda_backend.types import Display, TrainingSettings


class TableTask(RegressionTask):
    """Rows of a shipped table in a fixed random order: the first are the training split, the others the test split.

    Inputs and targets have mean 0 and variance 1 over the training split, float32 ``[N, d]`` and ``[N]``.
    """

    file: str = ""
    num_train_rows: int = 0
    target_name: str = "target"
    input_units: tuple[str, ...] = ()
    noun: str = "row"

    def __init__(self) -> None:
        arrays = shipped_arrays(self.file)
        inputs, targets = arrays["inputs"], arrays["targets"]
        order = hashed_rng("table-split", self.file).permutation(len(inputs))
        self._rows = {"train": order[: self.num_train_rows], "test": order[self.num_train_rows :]}
        train = self._rows["train"]
        self._inputs, self._targets = inputs, targets
        self._columns = [str(name) for name in arrays["columns"]]
        self._mean, self._std = inputs[train].mean(axis=0), inputs[train].std(axis=0)
        self.target_mean, self.target_std = float(targets[train].mean()), float(targets[train].std())

    @property
    def num_inputs(self) -> int:
        """Number of columns d."""
        return self._inputs.shape[1]

    def datasets(self) -> dict[str, Any]:
        """Return both splits as dicts of ``x`` float32 ``[N, d]`` and ``y`` float32 ``[N]``, standardised."""
        return {
            split: {
                "x": torch.from_numpy(((self._inputs[rows] - self._mean) / self._std).astype(np.float32)),
                "y": torch.from_numpy(((self._targets[rows] - self.target_mean) / self.target_std).astype(np.float32)),
            }
            for split, rows in self._rows.items()
        }

    def show(self, split: str, index: int) -> Display:
        """Return the row in its own units, the target last."""
        row = self._rows[split][index]
        units = self.input_units or ("",) * self.num_inputs
        names = [f"{name} ({unit})" if unit else name for name, unit in zip(self._columns, units, strict=True)]
        target = f"{self.target_name} ({self.target_unit})" if self.target_unit else self.target_name
        cells = {name: float(value) for name, value in zip(names, self._inputs[row], strict=True)}
        cells[target] = float(self._targets[row])
        value = f"{self._targets[row]:.4g} {self.target_unit}".rstrip()
        return Display("row", caption=f"{split} {self.noun} #{index}: {self.target_name} {value}", row=cells)


class ConcreteTask(TableTask):
    """UCI Concrete: strength of 1 030 mixes from seven ingredients and age; 824 train, 206 test."""

    file = "concrete.npz"
    num_train_rows = 824
    target_name, target_unit = "compressive strength", "MPa"
    input_units = ("kg/m³",) * 7 + ("days",)
    noun = "mix"


class ConcreteMLP(ConcreteTask):
    """MLP with three hidden layers of 128, ReLU; SGD 0.03, momentum 0.9, decay 1e-5, 20 epochs, batch 32.

    Source: *Training Data Attribution via Approximate Unrolling* (arXiv 2405.12186), §B.1.
    """

    name = "concrete-mlp"
    training = TrainingSettings(num_epochs=20, batch_size=32, learning_rate=0.03, momentum=0.9, weight_decay=1e-5)

    def build_model(self, seed: int) -> nn.Module:
        """Return the MLP with PyTorch's default initialisation from ``seed``."""
        return perceptron((self.num_inputs, 128, 128, 128, 1), seed)


class ConcreteLinear(ConcreteTask):
    """Linear regression stopped after 3 epochs, far from convergence; SGD 0.01, batch 32.

    Source: *Training Data Attribution via Approximate Unrolling* (arXiv 2405.12186), §E.3.
    """

    name = "concrete-linear"
    training = TrainingSettings(num_epochs=3, batch_size=32, learning_rate=0.01)

    def build_model(self, seed: int) -> nn.Module:
        """Return the linear model with PyTorch's default initialisation from ``seed``."""
        return perceptron((self.num_inputs, 1), seed)


class ConcreteLinearOptimum(ConcreteLinear):
    """The same linear regression at the exact optimum of its loss with an L2 penalty (arXiv 2405.12186, §E.3)."""

    name = "concrete-linear-optimum"
    training = TrainingSettings(
        num_epochs=1, batch_size=32, learning_rate=0.01, weight_decay=1e-3, optimizer="lbfgs"
    )  # fmt: skip


class DiabetesTask(TableTask):
    """Diabetes: disease progression of 442 patients from ten baseline variables; 342 train, 100 test."""

    file = "diabetes.npz"
    num_train_rows = 342
    target_name = "disease progression"
    input_units = ("years", "", "kg/m²", "mmHg") + ("",) * 6
    noun = "patient"

    def build_model(self, seed: int) -> nn.Module:
        """Return the linear model with PyTorch's default initialisation from ``seed``."""
        return perceptron((self.num_inputs, 1), seed)


class DiabetesLR(DiabetesTask):
    """Linear regression stopped after 3 epochs, far from convergence; SGD 0.01, batch 32.

    After *Training Data Attribution via Approximate Unrolling* (arXiv 2405.12186), §E.3, which classifies another
    table of diabetes patients by logistic regression.
    """

    name = "diabetes-lr"
    training = TrainingSettings(num_epochs=3, batch_size=32, learning_rate=0.01)


class DiabetesOptimum(DiabetesTask):
    """The same linear regression at the exact optimum of its loss with an L2 penalty (arXiv 2405.12186, §E.3)."""

    name = "diabetes-optimum"
    training = TrainingSettings(
        num_epochs=1, batch_size=32, learning_rate=0.01, weight_decay=1e-3, optimizer="lbfgs"
    )  # fmt: skip


TASKS = (ConcreteMLP, ConcreteLinear, ConcreteLinearOptimum, DiabetesLR, DiabetesOptimum)
PLACE = 3
