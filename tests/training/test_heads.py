"""What loss and measurement ask of a model alike is computed once, and proves the margin identity where it can."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tda_backend.models.checking.identity import _error_at_outputs, identity_error, random_signs, refuse_wrong_identity
from tda_backend.models.checking.promises import BrokenPromise, slope_tolerance
from tda_backend.models.heads import one_forward
from tda_backend.models.tasks.contract import built
from tda_backend.models.tasks.data import num_rows
from tests.training.contract_tasks import Points, Smoothed


class Counted(nn.Module):
    """Counts its passes, and writes down whether they had a graph."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.graphs = inner, []

    def forward(self, x: Tensor) -> Tensor:
        self.graphs.append(torch.is_grad_enabled())
        return self.inner(x)


class Writing(Points):
    """Its loss writes into what the model returns."""

    def train_loss(self, model, batch):
        logits = model(batch["x"])
        logits += 7
        return functional.cross_entropy(logits, batch["y"], reduction="none")


class Penalised(Points):
    """Its loss is a function of the outputs and of the parameters beside them."""

    def train_loss(self, model, batch):
        penalty = sum(parameter.square().sum() for parameter in model.parameters())
        return super().train_loss(model, batch) + penalty


class Shifted(Points):
    """Its loss is taken at other inputs than its measurement."""

    def train_loss(self, model, batch):
        return super().train_loss(model, {**batch, "x": batch["x"] + 1})


class Inside(Points):
    """Asks the model's modules, not the model."""

    def logits(self, model, batch):
        return model.inner(batch["x"])


def proved(task: Points) -> tuple[float, Counted]:
    model, data = Counted(built(task, 0)).eval(), task.datasets()["train"]
    return refuse_wrong_identity(task, model, data, np.random.default_rng(0), torch.float32), model


@pytest.mark.parametrize("kind", [Points, Writing])
def test_one_forward_pass_without_a_graph_proves_the_identity(kind: type[Points]):
    error, model = proved(kind())
    assert model.graphs == [False]
    assert error < slope_tolerance(torch.float32) / 10


def test_a_task_that_asks_modules_is_proved_by_backward_passes():
    error, model = proved(Inside())
    assert model.graphs == []
    assert error < slope_tolerance(torch.float32) / 10


@pytest.mark.parametrize("kind", [Penalised, Shifted, Smoothed])
def test_what_is_not_the_same_function_of_the_outputs_is_refused(kind: type[Points]):
    with pytest.raises(BrokenPromise, match="differ by"):
        proved(kind())


def test_the_error_at_outputs_is_that_of_the_parameters():
    """A model that is linear in its parameters, with orthogonal inputs: both errors are the same share of ∇f."""
    task, x = Smoothed(), torch.eye(6, 12, dtype=torch.float64)
    batch, model = {"x": x, "y": torch.arange(6) % 4}, nn.Linear(12, 4, bias=False).double()
    tolerance = slope_tolerance(torch.float64)
    expected = identity_error(task, model, batch, random_signs(np.random.default_rng(1), 6), tolerance)
    assert _error_at_outputs(task, model, batch, tolerance) == pytest.approx(expected, rel=1e-9)


def test_a_model_is_as_before():
    model, data = built(Points(), 0), Points().datasets()["train"]
    with one_forward(model) as once:
        first, second = model(data["x"]), model(data["x"].clone())
        other = model(data["x"][:3])
    assert (once.answers, once.has_others) == (2, True)
    assert torch.equal(first, second)
    assert first is not second
    assert torch.equal(model(data["x"][:3]), other)
    assert "forward" not in vars(model)
    assert num_rows(data) == len(first)

    model.forward = own = lambda x: x
    with one_forward(model):
        assert model(data["x"]).requires_grad
    assert vars(model)["forward"] is own


def test_inputs_that_were_written_into_are_another_question():
    model, x = built(Points(), 0), Points().datasets()["train"]["x"].clone()
    with one_forward(model) as once:
        first = model(x)
        x.add_(1)
        assert not torch.equal(model(x), first)
    assert once.has_others
