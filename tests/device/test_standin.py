"""The stand-in device itself: what it computes is right, mixing raises, and work is counted where it ran."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.device.standin import NAME, OnDevice, watching


def test_gradients_vmap_and_decompositions_are_those_of_the_cpu():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)), torch.randn(5, 4)

    def per_example(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        parameters = {name: value.detach() for name, value in model.named_parameters()}

        def loss(parameters, row):
            return torch.func.functional_call(model, parameters, (row[None],)).square().sum()

        found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
        rows = torch.cat([value.flatten(1) for value in found.values()], 1).double()
        values, vectors = torch.linalg.eigh(rows.T @ rows)
        return (rows @ vectors).abs() + values

    expected = per_example(model, x)
    with watching() as watch:
        found = per_example(model.to(NAME), x.to(NAME))
        assert isinstance(found, OnDevice)
        assert watch.cpu == 0
        assert watch.device > 0
        torch.testing.assert_close(found.cpu(), expected, atol=1e-6, rtol=1e-6)


def test_mixing_with_the_cpu_raises():
    with watching():
        ours, theirs = torch.ones(3, 3, device=NAME), torch.ones(3, 3)
        for mixed in (lambda: ours @ theirs, lambda: ours + theirs, lambda: torch.cat([ours, theirs])):
            with pytest.raises(RuntimeError, match="same device"):
                mixed()
        assert float((ours + torch.tensor(1.0)).sum()) == 18  # a number may come from anywhere
        assert ours[torch.tensor([0, 2])].shape == (2, 3)  # and indices


def test_work_is_counted_where_it_runs():
    with watching() as watch:
        ours, theirs = torch.ones(10, 20, device=NAME), torch.ones(10, 20)
        ours @ ours.T
        assert (watch.device, watch.cpu) == (2 * 10 * 20 * 10, 0)
        theirs @ theirs.T
        assert (watch.device, watch.cpu) == (4000, 4000)
        torch.linalg.eigh(ours @ ours.T)
        assert watch.device == 4000 + 4000 + 9 * 10**3
        assert watch.reads == 0
        assert float(ours.sum()) == 200
        assert watch.reads == 1


def test_views_share_memory_and_writing_in_place_returns_the_same():
    with watching():
        whole = torch.zeros(4, 4, device=NAME)
        whole[1] += 1
        assert whole[1:2].sum().item() == 4
        assert whole.add_(1) is whole
        out = torch.empty(4, 4, device=NAME)
        assert torch.mm(whole, whole, out=out) is out
        assert not torch.equal(out.cpu(), torch.zeros(4, 4))
