"""First- and second-order states against central differences of the real training loop with a weighted example."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.func import jacrev

from tda_backend.errors import NumericalError
from tda_backend.models.tasks import ClassificationTask
from tda_backend.models.tasks.built_in.gpt import LayerNorm
from tda_backend.numerics.trajectory.unrolled.error_proxy import error_proxies
from tda_backend.numerics.trajectory.unrolled.influence import unrolled_influence
from tda_backend.numerics.trajectory.unrolled.objective import Objective
from tda_backend.numerics.trajectory.unrolled.queries import Queries
from tda_backend.numerics.trajectory.unrolled.trajectory import Trajectory
from tests.trajectory.unrolled.reweighted import CASES, POINTS, REMOVED, outcome, recorded, reweighted

HORIZONS = [10, 1, 4, 7]
AFTER = torch.tensor(HORIZONS) - 1
ROW = 7


def proxies(run: Trajectory, rows=REMOVED, **options):
    return error_proxies(run, rows, Queries(POINTS, quantity="loss"), **options)


def differences(run: Trajectory, row: int, width: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return dL/dw and d²L/dw² at w = 0 of every evaluation example after every step, ``[T, m]``, weight 1 − w.

    Central differences at two widths, of which one step of Richardson's extrapolation takes the error of order w² away.
    """
    base = outcome(run, reweighted(run, {}))

    def at(half: float) -> tuple[torch.Tensor, torch.Tensor]:
        more, less = (outcome(run, reweighted(run, {row: 1 - sign * half})) for sign in (1.0, -1.0))
        return (more - less) / (2 * half), (more - 2 * base + less) / half**2

    wide, narrow = at(width), at(width / 2)
    return tuple((4 * near - far) / 3 for near, far in zip(narrow, wide, strict=True))


@pytest.mark.parametrize("name", CASES)
def test_both_orders_are_those_of_the_training_loop(name: str):
    run = recorded(name)
    found = proxies(run, [30, ROW], horizons=HORIZONS)
    slope, bend = differences(run, ROW, 0.04)
    torch.testing.assert_close(found.prediction[1], slope[-1], rtol=1e-6, atol=1e-6 * float(slope[-1].abs().max()))
    torch.testing.assert_close(2 * found.full[1], bend[-1], rtol=1e-4, atol=1e-4 * float(bend[-1].abs().max()))
    means = slope.mean(dim=1)[AFTER], bend.mean(dim=1)[AFTER]
    torch.testing.assert_close(found.prediction_at[:, 1], means[0], rtol=1e-6, atol=1e-6 * float(means[0].abs().max()))
    torch.testing.assert_close(2 * found.full_at[:, 1], means[1], rtol=1e-4, atol=1e-4 * float(means[1].abs().max()))
    assert float((found.full[1] - found.cheap[1]).abs().max()) > 1e-3 * float(found.full[1].abs().max())


@pytest.mark.parametrize("name", ["momentum, decoupled decay, clipped", "adamw, decay, clipped, cosine, warm-up"])
def test_the_prediction_is_that_of_the_backward_sweep(name: str):
    run = recorded(name)
    columns = [run.train_indices.tolist().index(row) for row in REMOVED.tolist()]
    swept = unrolled_influence(run, Queries(POINTS, quantity="loss")).scores[:, columns]
    torch.testing.assert_close(proxies(run).prediction, swept.T, rtol=1e-10, atol=1e-14)


def test_the_cheap_proxy_is_the_bend_of_the_loss_alone():
    """½·(ℓ(θ + hδ) − 2ℓ(θ) + ℓ(θ − hδ))/h² with δ by central differences of the training loop."""
    run = recorded("adamw")
    width = 1e-4
    change = (reweighted(run, {ROW: 1 - width})[-1] - reweighted(run, {ROW: 1 + width})[-1]) / (2 * width)
    theta, size = run.final_theta, 0.1
    around = [outcome(run, theta + sign * size * change) for sign in (1.0, 0.0, -1.0)]
    expected = 0.5 * (around[0] - 2 * around[1] + around[2]) / size**2
    torch.testing.assert_close(proxies(run, [ROW]).cheap[0], expected, rtol=1e-4, atol=1e-9)


def test_the_second_order_leaves_an_error_of_third_order():
    """With weight 1 − w, prediction·w is wrong by order w², prediction·w + E₂·w² by order w³."""
    run = recorded("adamw, decay, clipped, cosine, warm-up")
    found, base = proxies(run, [ROW]), outcome(run, run.final_theta)
    left = []
    for width in (0.04, 0.02):
        real = outcome(run, reweighted(run, {ROW: 1 - width})[-1]) - base
        linear = real - width * found.prediction[0]
        left.append((linear.norm(), (linear - width**2 * found.full[0]).norm()))
    assert left[0][0] / left[1][0] == pytest.approx(4, rel=0.1)
    assert left[0][1] / left[1][1] == pytest.approx(8, rel=0.1)


def test_a_second_order_as_large_as_the_first_is_marked():
    found = proxies(recorded("adamw"))
    share = found.full.abs().mean(dim=1) / found.prediction.abs().mean(dim=1)
    for limit in (0.0, float(share.median()), 1e9):
        assert found.is_small(limit).tolist() == [value <= limit for value in share.tolist()]
    assert 0 < int(found.is_small(float(share.median())).sum()) < len(REMOVED)


@pytest.mark.parametrize("chunk", [1, 3])
def test_chunks_and_order_change_nothing(chunk: int):
    run = recorded("adamw, decay, clipped, cosine, warm-up")
    whole, seen = proxies(run, horizons=HORIZONS), []
    parts = proxies(
        run, REMOVED.flip(0), horizons=HORIZONS, chunk=chunk, on_progress=lambda done, total: seen.append((done, total))
    )
    for key in ("prediction", "cheap", "full"):
        torch.testing.assert_close(getattr(parts, key).flip(0), getattr(whole, key), rtol=1e-9, atol=1e-14)
        at = f"{key}_at"
        torch.testing.assert_close(getattr(parts, at).flip(1), getattr(whole, at), rtol=1e-9, atol=1e-14)
    assert [done for done, _ in seen] == list(range(1, seen[0][1] + 1))
    assert {total for _, total in seen} == {len(seen)}


def test_the_path_of_one_example_starts_where_it_is_seen_and_ends_at_its_prediction():
    run = recorded("adamw")
    found = proxies(run, [ROW], horizons=range(1, run.num_steps + 1))
    first = run.steps_of(ROW)[0]
    assert (found.prediction_at[: first - 1] == 0).all()
    assert float(found.prediction_at[first - 1, 0].abs()) > 0
    for key in ("prediction", "cheap", "full"):
        torch.testing.assert_close(getattr(found, f"{key}_at")[-1, 0], getattr(found, key)[0].mean())


def test_gradients_along_a_curve_are_those_of_automatic_differentiation():
    """d/dt and d²/dt² of ∇L(θ + tv + ½t²w), each in one call of reverse mode per derivative."""
    run = recorded("sgd")
    objective, theta, rows = run.objective, run.final_theta, run.batches[0]
    generator = torch.Generator().manual_seed(0)
    v, w = (torch.randn(3, len(theta), generator=generator, dtype=theta.dtype) for _ in range(2))
    first, second = objective.curve_gradients(theta, rows, v, w)
    for number in range(3):
        time = torch.zeros((), dtype=theta.dtype)

        def along(t: torch.Tensor, number: int = number) -> torch.Tensor:
            return objective.mean_gradient(theta + t * v[number] + 0.5 * t**2 * w[number], rows)

        once = jacrev(along)
        torch.testing.assert_close(first[number], once(time), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(second[number], jacrev(once)(time), rtol=1e-10, atol=1e-12)


def test_parts_of_a_batch_add_up(monkeypatch: pytest.MonkeyPatch):
    run = recorded("sgd")
    objective, theta, rows = run.objective, run.final_theta, run.batches[0]
    generator = torch.Generator().manual_seed(0)
    v, w = (torch.randn(3, len(theta), generator=generator, dtype=theta.dtype) for _ in range(2))
    weights = torch.rand(3, len(rows), generator=generator, dtype=theta.dtype)

    def derivatives() -> list[torch.Tensor]:
        moved = objective.weighted_gradients(theta + 0.1 * v, rows, weights)
        return [*objective.curve_gradients(theta, rows, v, w), objective.hessian_product(theta, rows, v), moved]

    whole = derivatives()
    for examples in (1, len(rows) - 1):
        monkeypatch.setattr(f"{Objective.__module__}._CACHED", examples * objective._saved_per_example)
        for part, all_of_it in zip(derivatives(), whole, strict=True):
            torch.testing.assert_close(part, all_of_it, rtol=1e-12, atol=1e-13)


def test_states_that_are_still_0_are_not_differentiated(monkeypatch: pytest.MonkeyPatch):
    run, counts = recorded("sgd"), []
    curve = run.objective.curve_gradients

    def counted(theta, rows, first, second):
        assert (first != 0).any(dim=1).all()
        counts.append(len(first))
        return curve(theta, rows, first, second)

    monkeypatch.setattr(run.objective, "curve_gradients", counted)
    proxies(run)
    firsts = [run.steps_of(int(row))[0] for row in REMOVED]
    assert sum(counts) == sum(run.num_steps - first for first in firsts)


def test_a_state_that_is_not_finite_is_named(monkeypatch: pytest.MonkeyPatch):
    run = recorded("sgd")

    def broken(theta, rows, first, second):
        return (first, second * torch.nan)

    monkeypatch.setattr(run.objective, "curve_gradients", broken)
    with pytest.raises(NumericalError, match="row 12"):
        proxies(run, [12])


class _WithNorm(ClassificationTask):
    """A network with PyTorch's LayerNorm, or with the same written out."""

    name = "with-norm"
    num_classes = 3

    def __init__(self, written_out: bool) -> None:
        self._norm = LayerNorm if written_out else nn.LayerNorm

    def datasets(self) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(12, 4, generator=generator)
        return {"train": {"x": x, "y": torch.arange(12) % 3}, "test": {"x": x, "y": torch.arange(12) % 3}}

    def build_model(self, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 6), self._norm(6), nn.Tanh(), nn.Linear(6, 3))


def test_a_norm_whose_third_derivative_pytorch_gets_wrong_is_differenced():
    pair = []
    for written_out in (True, False):
        task = _WithNorm(written_out)
        objective = Objective(task, task.build_model(0), task.datasets()["train"], dtype=torch.float64)
        generator = torch.Generator().manual_seed(1)
        v, w = (torch.randn(3, objective.num_parameters, generator=generator, dtype=torch.float64) for _ in range(2))
        pair.append(objective.curve_gradients(objective.theta(), torch.arange(12), v * 1e-3, w))
    for exact, differenced in zip(*pair, strict=True):
        torch.testing.assert_close(differenced, exact, rtol=1e-6, atol=1e-9 * float(exact.abs().max()))
