"""Dense per-example gradients for models with other layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tda_backend.errors import NumericalError, UsageError
from tda_backend.models.probe import Probe
from tda_backend.numerics.features.dense import Request, dense_gradient_blocks, dense_gram, project_gradients
from tda_backend.numerics.features.projection import Projection, random_rows
from tests.helpers_numerics import (
    NUM_CLASSES,
    TASKS,
    ClassificationExample,
    assert_close,
    dense_gradients,
    split_probe,
)


class Branching(nn.Module):
    """Control flow that depends on the data, which vmap cannot trace."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Parameter(torch.randn(6, NUM_CLASSES))
        self.right = nn.Parameter(torch.randn(6, NUM_CLASSES))

    def forward(self, x):
        return torch.stack([row @ (self.left if row.sum() > 0 else self.right) for row in x])


BRANCHING = ClassificationExample("branching", Branching)


@pytest.mark.parametrize("task", [TASKS["conv"], BRANCHING, TASKS["mlp"]], ids=lambda t: t.name)
@pytest.mark.parametrize(("budget", "batch_size"), [(1, 5), (2**26, 64)])
def test_blocks_put_together_are_the_gradients(task, budget, batch_size):
    model, data = task.build_model(0), task.datasets()
    probe = Probe(task, model, data, range(9), query=[2, 0], batch_size=batch_size)
    requests = [Request("train", "goodness"), Request("query", "train_loss")]
    blocks = list(dense_gradient_blocks(probe, requests, budget_numbers=budget))
    groups = [(data["train"], range(9), "goodness"), (data["test"], [2, 0], "train_loss")]
    truth = torch.cat([dense_gradients(task, model, *group) for group in groups])
    assert_close(torch.cat([block.values for block in blocks], 1), truth, 1e-12)
    gram = dense_gram(probe, requests, budget_numbers=budget)
    assert_close(gram, truth @ truth.T, 1e-12)


def test_large_tensors_are_cut_and_projections_do_not_depend_on_the_budget():
    task = ClassificationExample("wide", lambda: nn.Sequential(nn.Linear(6, 900), nn.LayerNorm(900), nn.Linear(900, 3)))
    model, data = task.build_model(0), task.datasets()
    probe, requests = split_probe(task, model, data["train"], range(5)), [Request("train", "goodness")]
    sizes = [b.values.shape[1] for b in dense_gradient_blocks(probe, requests, budget_numbers=1)]
    assert max(sizes) == 2048
    projection = Projection("rademacher", 16, seed=3)
    small = project_gradients(probe, requests, projection, budget_numbers=1)
    large = project_gradients(probe, requests, projection)
    assert_close(small, large, 1e-12)
    matrix = []
    for name, parameter in model.named_parameters():
        for block, start in enumerate(range(0, parameter.numel(), 2048)):
            matrix.append(random_rows(projection, name, block, min(2048, parameter.numel() - start)).double())
    truth = dense_gradients(task, model, data["train"], range(5), "goodness") @ torch.cat(matrix) / 4
    assert_close(small, truth, 1e-12)


def test_bad_requests_raise():
    task = ClassificationExample("nan", lambda: nn.Sequential(nn.LayerNorm(6), nn.Linear(6, NUM_CLASSES)))
    task.datasets()["train"]["x"][3] = torch.inf
    probe = split_probe(task, task.build_model(0), task.datasets()["train"], range(8))
    with pytest.raises(NumericalError, match=r"1 of 8 examples.*'0\.weight'.*row 3"):
        dense_gram(probe, [Request("train", "goodness")])
    with pytest.raises(UsageError, match="gaussian_from_gram"):
        project_gradients(probe, [], Projection("gaussian", 4, 0))
