"""One step of every optimizer at the places where it is easily wrong, against PyTorch's optimizers and autograd.

The first step (bias corrections 1 − β, moments 0), an empty second moment (0/0 in its formula), ε outside the root at
its usual 1e-8, gradients far below ε, late steps (bias corrections 1), and the order of clipping, decay and update.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import jvp, vjp

from tda_backend.models.training.routes.optimizer import optimizer_step, torch_optimizer
from tda_backend.numerics.trajectory.unrolled.optimizers import Adam, Optimizer, RMSProp, optimizer_of
from tda_backend.types import TrainingSettings

KINDS: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer": "sgd"},
    "momentum": {"optimizer": "sgd", "momentum": 0.9},
    "adam": {"optimizer": "adam"},
    "adamw": {"optimizer": "adamw", "betas": (0.9, 0.95)},
    "rmsprop": {"optimizer": "rmsprop"},
}
EXTRAS: dict[str, dict[str, Any]] = {
    "plain": {},
    "decay": {"weight_decay": 0.3},
    "decoupled": {"weight_decay": 0.3, "decoupled_decay": True},
    "clipped": {"weight_decay": 0.3, "clip_norm": 0.5},
}
CASES = [(kind, extra) for kind in KINDS for extra in EXTRAS]
RATE, SIZE, DEAD = 0.05, 7, 2
"""The last two coordinates never had a gradient."""


def settings_of(kind: str, extra: str) -> TrainingSettings:
    """Return training settings of one case."""
    return TrainingSettings(num_epochs=1, batch_size=1, learning_rate=RATE, **{**KINDS[kind], **EXTRAS[extra]})


def somewhere(optimizer: Optimizer, step: int, seed: int = 0, dead: int = DEAD) -> tuple[Tensor, Tensor, Tensor]:
    """Return θ, a state that such an optimizer can have before ``step``, and a gradient; float64."""
    generator = torch.Generator().manual_seed(seed)
    theta, gradient = torch.randn(2, SIZE, generator=generator, dtype=torch.float64)
    state = optimizer.initial(theta)
    gradient[SIZE - dead :] = 0
    for earlier in range(1, min(step, 6)):
        past = torch.randn(SIZE, generator=generator, dtype=torch.float64)
        past[SIZE - dead :] = 0
        _, state = optimizer.update(theta * 0, state, past, RATE, earlier)
    return theta, state, gradient


def changes(optimizer: Optimizer, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return random changes of (θ, s) ``[r, 1+s, P]`` and of the gradient ``[r, P]``."""
    generator = torch.Generator().manual_seed(seed)
    shape = (count, 2 + optimizer.num_slots, SIZE)
    found = torch.randn(shape, generator=generator, dtype=torch.float64)
    return found[:, 1:], found[:, 0]


def joined(optimizer: Optimizer, step: int) -> Any:
    """Return one step as a function of (θ and state ``[1+s, P]``, gradient), to be differentiated by autograd."""

    def function(both: Tensor, gradient: Tensor) -> Tensor:
        theta, state = optimizer.update(both[0], both[1:], gradient, RATE, step)
        return torch.cat([theta[None], state])

    return function


@pytest.mark.parametrize(("kind", "extra"), CASES)
def test_steps_are_those_of_pytorch(kind, extra):
    """Six steps from the first; some coordinates without gradients, one of which begins to have some."""
    chosen = settings_of(kind, extra)
    optimizer, generator = optimizer_of(chosen), torch.Generator().manual_seed(1)
    theta = torch.randn(SIZE, generator=generator, dtype=torch.float64)
    parameter = nn.Parameter(theta.clone())
    theirs = torch_optimizer(chosen, [parameter])
    state = optimizer.initial(theta)
    for step in range(1, 7):
        gradient = torch.randn(SIZE, generator=generator, dtype=torch.float64)
        gradient[-1] = 0
        gradient[-2] *= step > 3
        gradient[0] *= 1e-9  # below ε
        parameter.grad = gradient.clone()
        optimizer_step(chosen, theirs, [parameter])
        theta, state = optimizer.update(theta, state, gradient, RATE, step)
        torch.testing.assert_close(theta, parameter.detach(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("step", [1, 2, 5, 5000])
@pytest.mark.parametrize(("kind", "extra"), CASES)
def test_first_derivatives_are_those_of_autograd(kind, extra, step):
    """Forwards and backwards; ε = 1e-8."""
    optimizer = optimizer_of(settings_of(kind, extra))
    theta, state, gradient = somewhere(optimizer, step, dead=0)
    point = optimizer.point(theta, state, gradient, RATE, step)
    both, function = torch.cat([theta[None], state]), joined(optimizer, step)
    change, change_of_gradient = changes(optimizer, 3, step)
    expected = torch.stack(
        [jvp(function, (both, gradient), pair)[1] for pair in zip(change, change_of_gradient, strict=True)]
    )
    torch.testing.assert_close(point.push(change, change_of_gradient), expected, rtol=1e-7, atol=1e-10)
    rows, _ = changes(optimizer, 3, step + 1)
    back = vjp(function, both, gradient)[1]
    pulled = [back(row) for row in rows]
    cov, passed = point.pull(rows)
    torch.testing.assert_close(cov, torch.stack([found[1] for found in pulled]), rtol=1e-7, atol=1e-10)
    torch.testing.assert_close(passed, torch.stack([found[0] for found in pulled]), rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("step", [1, 2, 5, 5000])
@pytest.mark.parametrize(("kind", "extra"), CASES)
def test_second_derivatives_are_those_of_autograd(kind, extra, step):
    """Of the step along x + t·δ + ½t²·δ² at t = 0, both gradient and state curved."""
    optimizer = optimizer_of(settings_of(kind, extra))
    theta, state, gradient = somewhere(optimizer, step, dead=0)
    point = optimizer.point(theta, state, gradient, RATE, step)
    both, function = torch.cat([theta[None], state]), joined(optimizer, step)
    (change, of_gradient), (second, second_gradient) = changes(optimizer, 1, 7), changes(optimizer, 1, 8)

    def along(t: Tensor) -> Tensor:
        bent = both + t * change[0] + 0.5 * t**2 * second[0]
        return function(bent, gradient + t * of_gradient[0] + 0.5 * t**2 * second_gradient[0])

    zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    expected = jvp(lambda t: jvp(along, (t,), (one,))[1], (zero,), (one,))[1]
    found = point.push_second(change, second, of_gradient, second_gradient)[0]
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("optimizer", [Adam(), Adam(betas=(0.9, 0.95), decoupled=True), RMSProp()], ids=str)
@pytest.mark.parametrize("step", [1, 4])
def test_an_empty_second_moment_passes_what_its_limit_passes(optimizer, step):
    """Where no gradient has ever been, u is linear in a gradient far below ε: the derivative is finite, S is 0."""
    theta, state, gradient = somewhere(optimizer, step)
    point = optimizer.point(theta, state, gradient, RATE, step)
    change, of_gradient = changes(optimizer, 2, 3)
    change[:, 1:, -DEAD:] = 0
    found = point.push(change, of_gradient)[..., -DEAD:]
    tiny = 1e-16  # the central difference stays 1e-8 times ε away from 0
    function, both = joined(optimizer, step), torch.cat([theta[None], state])
    for row, direction, expected in zip(change, of_gradient, found, strict=True):
        ends = [function(both + sign * tiny * row, gradient + sign * tiny * direction) for sign in (1, -1)]
        slope = ((ends[0] - function(both, gradient)) - (ends[1] - function(both, gradient)))[0, -DEAD:] / (2 * tiny)
        assert torch.isfinite(expected).all()
        first = (1 - optimizer.betas[0]) / (1 - optimizer.betas[0] ** step) if isinstance(optimizer, Adam) else 1.0
        torch.testing.assert_close(
            expected[0], row[0, -DEAD:] - RATE * first * direction[-DEAD:] / optimizer.eps, rtol=1e-12, atol=0
        )
        torch.testing.assert_close(slope, expected[0], rtol=1e-5, atol=0)  # θ itself rounds, at 1e-16 of 1e-9
    second = point.push_second(change, change * 0, of_gradient, of_gradient * 0)
    assert torch.isfinite(second).all()


@pytest.mark.parametrize("size", [1e-9, 1e-8, 1e-6, 1e-3, 1.0])
def test_the_first_step_of_adam_is_almost_a_sign(size):
    """u = g/(|g| + ε), so du/dg = ε/(|g| + ε)²: the two paths, through m and through v, all but cancel."""
    optimizer = Adam(betas=(0.9, 0.95))
    gradient = torch.tensor([size, -size], dtype=torch.float64)
    theta = torch.zeros_like(gradient)
    state = optimizer.initial(theta)
    after, _ = optimizer.update(theta, state, gradient, RATE, 1)
    expected = gradient / (gradient.abs() + optimizer.eps)
    torch.testing.assert_close(after, -RATE * expected, rtol=1e-12, atol=0)
    u = torch.tensor([[[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]]], dtype=torch.float64)
    cov, _ = optimizer.point(theta, state, gradient, RATE, 1).pull(u)
    slope = -RATE * optimizer.eps / (gradient.abs() + optimizer.eps).square()
    rounding = 1e-15 * (size + optimizer.eps) / optimizer.eps  # of the two parts, which are this much larger
    torch.testing.assert_close(cov[0], slope, rtol=1e-10 + rounding, atol=0)


def test_epsilon_stands_outside_the_root():
    """At ε of the size of the gradient: g/(|g| + ε), not g/√(g² + ε)."""
    optimizer = Adam(eps=0.5)
    gradient = torch.tensor([0.5], dtype=torch.float64)
    after, _ = optimizer.update(torch.zeros(1).double(), torch.zeros(2, 1).double(), gradient, 1.0, 1)
    torch.testing.assert_close(after, torch.tensor([-0.5], dtype=torch.float64))


@pytest.mark.parametrize("optimizer", [Adam(), RMSProp()], ids=str)
def test_first_order_stays_finite_in_float32_down_to_the_smallest_gradients(optimizer):
    """Second moments down to 1e-38; the second derivative by v̂ leaves float32 below 1e-15, where float64 is needed."""
    theta, gradient = torch.zeros(9), torch.logspace(-19, 3, 9)
    exact, found = (
        optimizer.point(theta.to(kind), optimizer.initial(theta.to(kind)), gradient.to(kind), RATE, 1)
        for kind in (torch.float64, torch.float32)
    )
    for one, other in zip(exact.slots, found.slots, strict=True):
        for values, reference in ((other.effect, one.effect), (other.intake, one.intake)):
            if isinstance(values, Tensor):
                torch.testing.assert_close(values.double(), reference, rtol=1e-5, atol=0)
    assert all(bool(torch.isfinite(values).all()) for values in exact.curvatures.pure.values())


@given(case=st.sampled_from(CASES), step=st.integers(1, 10_000), seed=st.integers(0, 2**31), scale=st.floats(1e-6, 1e3))
@settings(max_examples=60, deadline=None)
def test_backwards_is_the_transpose_of_forwards(case, step, seed, scale):
    """⟨u, push(δ, δg)⟩ = ⟨passed, δ⟩ + ⟨cov, δg⟩, dead coordinates included."""
    optimizer = optimizer_of(settings_of(*case))
    theta, state, gradient = somewhere(optimizer, step, seed)
    point = optimizer.point(theta, state, scale * gradient, RATE, step)
    (change, of_gradient), (rows, _) = changes(optimizer, 2, seed + 1), changes(optimizer, 2, seed + 2)
    cov, passed = point.pull(rows)
    after = point.push(change, of_gradient)
    left = torch.einsum("qsp,rsp->qr", rows, after)
    right = torch.einsum("qsp,rsp->qr", passed, change) + cov @ of_gradient.T
    size = torch.einsum("qsp,rsp->qr", rows.abs(), after.abs()).max() + (cov.abs() @ of_gradient.abs().T).max()
    assert float((left - right).abs().max()) <= 1e-12 * float(size)
