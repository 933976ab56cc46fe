"""The algebra of SOURCE on explicit matrices: limits as theorems, exact unrolling, dense matrix exponentials."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm

from tda_backend.errors import NumericalError, UsageError
from tda_backend.numerics.trajectory.source.preconditioned import adam_preconditioner, preconditioned_operator
from tda_backend.numerics.trajectory.source.segments import TrainingSegment
from tda_backend.numerics.trajectory.source.walk import (
    decay_filter,
    dense_operator,
    response_filter,
    walk,
)
from tests.helpers_numerics import assert_close, random_rows
from tests.trajectory.contracted import contract_walk

P, N, M = 5, 8, 3


def matrix(seed: int, rank: int = P, scale: float = 1.0):
    """Return a random symmetric positive semi-definite matrix [p, p] of this rank."""
    (rows,) = random_rows(seed, (rank, P))
    return scale * rows.T @ rows / P


def dense_response(curvature, duration):
    """Return F_r(H) = ∫₀ᶜ exp(−sH)ds as the corner of one exponential; needs no inverse and no symmetry."""
    size = len(curvature)
    block = np.zeros((2 * size, 2 * size))
    block[:size, :size], block[:size, size:] = -np.asarray(curvature), np.eye(size)
    return torch.from_numpy(expm(duration * block)[:size, size:])


@given(st.floats(1e-14, 1e4), st.floats(1e-6, 100))
@settings(deadline=None)
def test_response_filter_lies_between_its_limits(sigma: float, duration: float):
    value = float(response_filter(torch.tensor(sigma, dtype=torch.float64), duration))
    assert 0 < value <= min(duration, 1 / sigma) * (1 + 1e-12)
    assert value >= 1 / (sigma + 1 / duration) * (1 - 1e-12)  # F_r lies above the damped inverse with λ = 1/c
    assert value == pytest.approx(float(dense_response([[sigma]], duration)), rel=1e-8)


def test_response_filter_at_zero_is_the_duration_and_continuous_from_both_sides():
    sigma = torch.tensor([-1e-15, 0.0, 1e-15, 1e-300], dtype=torch.float64)
    assert float(response_filter(sigma, 7.0)[1]) == 7.0
    assert_close(response_filter(sigma, 7.0), [7.0] * 4, 1e-14)
    assert torch.equal(response_filter(sigma, 0.0), torch.zeros(4, dtype=torch.float64))


def test_no_duration_is_the_dot_product_times_the_learning_rate():
    gradients, query = random_rows(1, (N, P), (M, P))
    duration = 1e-9
    operators = [dense_operator(matrix(2), duration), dense_operator(matrix(3), duration)]
    scores = contract_walk(operators, [gradients, 2 * gradients], query)
    assert_close(scores / duration, -3 * query @ gradients.T, 1e-8)  # TracIn: −Σ η φ'·∇ℓ


def test_endless_training_is_the_influence_function():
    gradients, query = random_rows(1, (N, P), (M, P))
    curvature = matrix(2) + 0.1 * torch.eye(P, dtype=torch.float64)
    scores = contract_walk([dense_operator(matrix(3), 5.0), dense_operator(curvature, 1e4)], [gradients] * 2, query)
    assert_close(scores, -query @ torch.linalg.solve(curvature, gradients.T), 1e-10)  # the past is forgotten


def test_one_segment_equals_its_closed_form_also_where_singular():
    gradients, query = random_rows(1, (N, P), (M, P))
    for rank, duration in ((P, 0.3), (2, 40.0)):
        scores = contract_walk([dense_operator(matrix(2, rank), duration)], [gradients], query)
        assert_close(scores, -query @ dense_response(matrix(2, rank), duration) @ gradients.T, 1e-10)


def test_segments_with_different_bases_chain_as_dense_exponentials_do():
    gradients = random_rows(1, (N, P), (N, P), (N, P))
    (query,) = random_rows(4, (M, P))
    curvatures, durations = [matrix(5), matrix(6), matrix(7)], [0.7, 1.1, 0.4]
    operators = [dense_operator(h, c) for h, c in zip(curvatures, durations, strict=True)]
    survive = [torch.from_numpy(expm(-c * h.numpy())) for h, c in zip(curvatures, durations, strict=True)]
    push = [dense_response(h, c) for h, c in zip(curvatures, durations, strict=True)]
    # forwards, as a parameter change dθ ← S̄dθ + r̄, not the backward walk
    change = torch.zeros(P, N, dtype=torch.float64)
    for s, r, g in zip(survive, push, gradients, strict=True):
        change = s @ change + r @ g.T
    assert_close(contract_walk(operators, gradients, query), -query @ change, 1e-10)
    one_basis = [dense_operator(sum(curvatures) / 3, c) for c in durations]
    wrong = contract_walk(one_basis, gradients, query)
    assert (wrong + query @ change).norm() > 0.02 * change.norm()  # forcing one basis is another answer


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_many_short_segments_are_exact_unrolled_gradient_descent(weight_decay: float):
    """Linear regression by full-batch gradient descent; removing z shrinks its weight in every step."""
    x, query = random_rows(1, (N, P), (M, P))
    (noise,) = random_rows(2, (N, 1))
    y = (x.sum(1, keepdim=True) + noise)[:, 0]
    rate, steps = 1e-4, 400

    def run(weights):
        theta, path = torch.zeros(P, dtype=torch.float64), []
        for _ in range(steps):
            path.append(theta)
            theta = theta - rate * (x.T @ (weights * (x @ theta - y)) / N + weight_decay * theta)
        return theta, path

    weights = torch.ones(N, dtype=torch.float64, requires_grad=True)
    unrolled = N * torch.autograd.functional.jacobian(lambda w: query @ run(w)[0], weights)  # d goodness / d weight
    _, path = run(weights.detach())
    gradients = [x * (x @ theta - y)[:, None] for theta in path]
    operator = dense_operator(x.T @ x / N, rate, weight_decay)
    scores = contract_walk([operator] * steps, gradients, query)
    assert_close(scores, unrolled, 3e-4)  # up to e^{−cσ} against 1 − cσ in each step
    assert (scores * unrolled > 0).float().mean() > 0.95
    without = contract_walk([dense_operator(x.T @ x / N, rate)] * steps, gradients, query)
    assert weight_decay == 0 or float((without - unrolled).norm() / unrolled.norm()) > 1e-3


def test_stationary_gradients_and_small_steps_give_the_segment_exactly():
    """K steps with fixed H and ḡ: δ ← (I − ηH)δ + (η/N)ḡ, as η → 0 with ηK = c."""
    curvature = matrix(3)
    gradients, query = random_rows(4, (N, P), (M, P))
    errors = []
    for steps in (100, 1000):
        rate, change = 2.0 / steps, torch.zeros(P, N, dtype=torch.float64)
        for _ in range(steps):
            change = change - rate * (curvature @ change) + rate * gradients.T
        scores = contract_walk([dense_operator(curvature, 2.0)], [gradients], query)
        errors.append(float((scores + query @ change).abs().max() / scores.abs().max()))
    assert errors[0] < 0.05
    assert errors[1] == pytest.approx(errors[0] / 10, rel=0.05)  # first order in the step, and nothing else


def test_momentum_is_a_longer_duration():
    """Heavy ball with fixed H and ḡ approaches c = ηK/(1 − β)."""
    curvature, beta = matrix(3, scale=0.5), 0.9
    gradients, query = random_rows(4, (N, P), (M, P))
    segment = TrainingSegment((1,), 20_000, 2.0, momentum=beta)
    rate = segment.learning_rate_sum / segment.num_steps
    change, velocity = torch.zeros(P, N, dtype=torch.float64), torch.zeros(P, N, dtype=torch.float64)
    for _ in range(segment.num_steps):
        velocity = beta * velocity + gradients.T - curvature @ change
        change = change + rate * velocity
    scores = contract_walk([dense_operator(curvature, segment.duration)], [gradients], query)
    assert segment.duration == pytest.approx(20.0)
    assert_close(scores, -query @ change, 2e-3)


def test_stages_count_only_their_own_examples():
    gradients, query = random_rows(1, (N, P), (M, P))
    first, second = dense_operator(matrix(2), 0.5), dense_operator(matrix(3), 0.8)
    in_first = torch.arange(N) < 5
    weights = [N * in_first.double() / 5, N * (~in_first).double() / 3]
    scores = contract_walk([first, second], [gradients] * 2, query, weights)
    late = N / 3 * -second.respond(query) @ gradients.T
    early = N / 5 * -first.respond(second.transport(query)) @ gradients.T
    assert_close(scores[:, ~in_first], late[:, ~in_first], 1e-12)
    assert_close(scores[:, in_first], early[:, in_first], 1e-12)


@pytest.mark.parametrize("decay_kind", ["l2", "decoupled"])
def test_preconditioned_segments_equal_nonsymmetric_exponentials(decay_kind: str):
    gradients = random_rows(1, (N, P), (N, P))
    (query,) = random_rows(4, (M, P))
    generator = torch.Generator().manual_seed(3)
    scales = [torch.rand(P, generator=generator, dtype=torch.float64) * 5 + 0.1 for _ in range(2)]
    curvatures = [matrix(5), matrix(6)]
    parts = [TrainingSegment((e,), 10, 0.4, 0.0, 0.2, decay_kind) for e in (1, 2)]
    operators = [preconditioned_operator(h, p, s) for h, p, s in zip(curvatures, scales, parts, strict=True)]
    change = torch.zeros(P, N, dtype=torch.float64)
    for h, p, g in zip(curvatures, scales, gradients, strict=True):
        omega = 0.2 / p if decay_kind == "decoupled" else torch.full((P,), 0.2, dtype=torch.float64)
        product = p[:, None] * (h + torch.diag(omega))  # PH̄, not symmetric
        change = torch.from_numpy(expm(-0.4 * product.numpy())) @ change + dense_response(product, 0.4) @ (p * g).T
    assert_close(contract_walk(operators, gradients, query), -query @ change, 1e-10)
    plain = [
        preconditioned_operator(h, p, s, weight_decay=False) for h, p, s in zip(curvatures, scales, parts, strict=True)
    ]
    assert (contract_walk(plain, gradients, query) + query @ change).norm() > 1e-3 * change.norm()


def test_unit_preconditioner_is_plain_source():
    gradients, query = random_rows(1, (N, P), (M, P))
    segment = TrainingSegment((1,), 10, 0.4, 0.0, 0.1, "decoupled")
    with_it = preconditioned_operator(matrix(2), torch.ones(P, dtype=torch.float64), segment)
    plain = dense_operator(matrix(2), 0.4, 0.1)
    assert_close(contract_walk([with_it], [gradients], query), contract_walk([plain], [gradients], query), 1e-12)


def test_adam_preconditioner_is_the_mean_of_corrected_roots():
    v = [torch.tensor([4.0, 0.0]), torch.tensor([1.0, 9.0])]
    actual = adam_preconditioner(v, [1, 2], 0.5, 0.1)
    expected = [(1 / (8**0.5 + 0.1) + 1 / ((4 / 3) ** 0.5 + 0.1)) / 2, (10 + 1 / (12**0.5 + 0.1)) / 2]
    assert_close(actual, expected, 1e-12)
    with pytest.raises(UsageError, match="second moments"):
        adam_preconditioner(v, [0, 1], 0.5, 0.1)


def test_upweighting_an_example_with_positive_score_raises_goodness():
    """The sign: retrain on a quadratic with one example's weight raised."""
    x, y = random_rows(1, (N, P), (N, 1))
    query = x[:1] * 2

    def trained(weights):
        theta = torch.zeros(P, dtype=torch.float64)
        for _ in range(300):
            theta = theta - 0.05 * x.T @ (weights * (x @ theta - y[:, 0])) / N
        return theta

    base = trained(torch.ones(N, dtype=torch.float64))
    gradients = x * (x @ base - y[:, 0])[:, None]
    scores = contract_walk([dense_operator(x.T @ x / N, 15.0)], [gradients], query)[0]
    rises = torch.stack([query[0] @ (trained(1 + 0.01 * torch.eye(N)[i]) - base) for i in range(N)])
    large = scores.abs() > 0.3 * scores.abs().max()
    assert torch.equal(torch.sign(rises[large]), torch.sign(scores[large]))


def test_negative_curvature_is_followed_until_it_overflows():
    gradients, query = random_rows(1, (N, P), (M, P))
    indefinite = matrix(2) - 0.5 * torch.eye(P, dtype=torch.float64)
    scores = contract_walk([dense_operator(indefinite, 2.0)], [gradients], query)
    assert_close(scores, -query @ dense_response(indefinite, 2.0) @ gradients.T, 1e-9)
    with pytest.raises(NumericalError, match=r"segment 1 of 1: e\^\(−cσ\) is not finite"):
        list(walk([dense_operator(indefinite, 1e4)], query))


def test_bad_input_is_refused():
    gradients, _ = random_rows(1, (N, P), (M, P))
    with pytest.raises(UsageError, match="shape"):
        dense_operator(gradients, 1.0)
    with pytest.raises(NumericalError, match="curvature"):
        dense_operator(matrix(2) * torch.nan, 1.0)


def test_decay_filter_and_response_filter_belong_together():
    sigma = torch.logspace(-12, 3, 40, dtype=torch.float64)
    assert_close(1 - sigma * response_filter(sigma, 3.0), decay_filter(sigma, 3.0), 1e-12)
