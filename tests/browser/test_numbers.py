"""The browser's arithmetic is Python's: the same filters, the same products, the same way of writing λ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from app.formats import regularization_text
from app.views.explorer.browser import factors_json
from app.views.explorer.element import explorer_module
from tda_backend.errors import NumericalError
from tda_backend.interfaces.reading.payload import Payload, WeightTable, payload_scores
from tda_backend.numerics.spectral.filters.damped import DampedInverse, StrictDampedInverse
from tda_backend.numerics.spectral.filters.krylov import Krylov
from tda_backend.numerics.spectral.filters.lissa import LissaMean

SCORES = """
async ([module, payload, lambdas]) => {
  const url = URL.createObjectURL(new Blob([module], { type: "text/javascript" }));
  const { decode, prepareFilter, weigh, multiply } = await import(url);
  const sigma = decode(Float32Array, payload.eigenvalues), rows = decode(Float32Array, payload.products);
  const filter = prepareFilter(payload, sigma);
  return lambdas.map((lambda) => {
    const weights = new Float32Array(sigma.length);
    const problem = weigh(filter, lambda, weights);
    return problem || [...multiply(rows, weights, new Float32Array(rows.length / sigma.length))];
  });
}
"""
LAMBDAS = [0.0, 1e-7, 3.3e-4, 0.0354, 10.0]


def in_browser(page, payload: Payload, lambdas: Sequence[float]) -> list:
    """Return each λ's scores, or the sentence that says why there are none."""
    return page.evaluate(SCORES, [explorer_module(), factors_json(payload), list(lambdas)])


def assert_same(page, payload: Payload, lambdas: Sequence[float], tolerance: float) -> int:
    """Assert that both sides give the same numbers, or none, at each λ; return at how many there are some."""
    found = in_browser(page, payload, lambdas)
    count = 0
    for lam, values in zip(lambdas, found, strict=True):
        try:
            expected = payload_scores(payload, lam)
        except NumericalError:
            assert isinstance(values, str), lam
            continue
        assert not isinstance(values, str), (lam, values)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(values, expected, atol=tolerance * scale, rtol=0, err_msg=str(lam))
        count += 1
    return count


def factors(width: int, lowest: float = -20.0, rows: int = 17) -> Payload:
    """Return made-up factors whose eigenvalues span many decades, as float32."""
    rng = np.random.default_rng(width)
    values = np.sort(np.exp(rng.uniform(lowest, 2, width)))[::-1].astype(np.float32)
    products = (rng.standard_normal((rows, width)) * values).astype(np.float32)
    return Payload(0, rows, list(range(rows)), values, products)


@pytest.mark.parametrize("width", [1, 3, 64, 1001])
def test_damped_inverse(page, width):
    payload = replace(factors(width), filters=(DampedInverse(),))
    assert assert_same(page, payload, LAMBDAS, 2e-5) == len(LAMBDAS)


def test_an_explicit_inverse_is_refused_at_zero_on_a_singular_curvature(page):
    payload = replace(factors(20), filters=(StrictDampedInverse(1, 21),))
    assert assert_same(page, payload, LAMBDAS, 2e-5) == len(LAMBDAS) - 1
    assert "singular" in in_browser(page, payload, [0.0])[0]


@pytest.mark.parametrize(("scaling", "depth"), [(5.0, 0), (5.0, 7), (50.0, 1000), (8.0, 5000), (1e3, 100)])
def test_the_mean_of_lissa(page, scaling, depth):
    payload = replace(factors(200), filters=(LissaMean(scaling, depth),))
    payload.eigenvalues[-1] = 0.0  # at σ + λ = 0 the weight is (T+1)/s
    largest = float(payload.eigenvalues[0])
    lambdas = [*LAMBDAS, *(lam for lam in (share * scaling - largest for share in (1, 1.9, 2.1)) if lam > 0)]
    assert assert_same(page, payload, lambdas, 2e-5) >= 4
    problem = in_browser(page, payload, [2.1 * scaling - largest])[0]
    assert "diverge" in problem
    assert "λ <" in problem


@pytest.mark.parametrize("max_iter", [1, 2, 5, 20, 50])
@pytest.mark.parametrize("sizes", [(60,), (40, 25)])
def test_conjugate_gradients(page, max_iter, sizes):
    rng = np.random.default_rng(max_iter)
    parts = [factors(size, lowest=-8.0) for size in sizes]
    coordinates = rng.standard_normal(sum(sizes))
    train = rng.standard_normal((17, sum(sizes)))
    payload = Payload(
        query=0,
        num_train=17,
        positions=list(range(17)),
        eigenvalues=np.concatenate([part.eigenvalues for part in parts]),
        products=(train * coordinates / len(sizes)).astype(np.float32),
        filters=(Krylov(max_iter),) * len(sizes),
        parts=sizes,
        coordinates=coordinates,
        outside=(0.7, 0.0)[: len(sizes)],
    )
    assert assert_same(page, payload, [1e-3, 0.0354, 1.0, 10.0, 1e4], 2e-5) == 5


def test_conjugate_gradients_of_few_distinct_eigenvalues_are_the_inverse(page):
    values = np.repeat(np.array([3.0, 1.0, 0.25], dtype=np.float32), 4)
    rng = np.random.default_rng(0)
    coordinates = rng.standard_normal(12)
    products = (rng.standard_normal((5, 12)) * coordinates).astype(np.float32)
    payload = Payload(
        query=0,
        num_train=5,
        positions=list(range(5)),
        eigenvalues=values,
        products=products,
        filters=(Krylov(20),),
        parts=(12,),
        coordinates=coordinates,
        outside=(0.0,),
    )
    found = np.array(in_browser(page, payload, [0.5])[0])
    np.testing.assert_allclose(found, products @ (1 / (values + 0.5)), rtol=1e-4, atol=1e-5)


@dataclass(frozen=True)
class Untwinned(DampedInverse):
    """1/(σ+λ) under a name that the browser has no function for."""

    name = "no-such-filter"
    has_twin = False


def tabled(grid: Sequence[float], refused: Sequence[float] = ()) -> Payload:
    """Return factors with the weights of an untwinned filter at some λ; NaN where it has none."""
    payload = factors(64)
    sigma = torch.from_numpy(payload.eigenvalues.copy()).double()
    rows = [np.full(64, np.nan) if lam in refused else Untwinned().weights(sigma, lam, 0).numpy() for lam in grid]
    table = WeightTable(np.array(grid), np.array(rows, dtype=np.float32))
    return replace(payload, filters=(Untwinned(),), table=table)


def test_a_filter_without_a_twin_is_interpolated_between_the_computed_values(page):
    grid = [0.0, *np.logspace(-7, 1, 49).tolist()]
    payload = tabled(grid)
    between = [float(np.sqrt(grid[5] * grid[6])), 3.3e-4, 0.0354]
    assert assert_same(page, payload, [*grid, *between], 2e-5) == len(grid) + len(between)
    exact = replace(payload, filters=(DampedInverse(),), table=None)
    for lam in between:  # six values a decade: a curve between them errs by little
        truth = payload_scores(exact, lam)
        np.testing.assert_allclose(payload_scores(payload, lam), truth, atol=0.05 * np.abs(truth).max())


def test_a_table_says_where_it_has_no_numbers(page):
    payload = tabled([0.0, 1e-3, 1e-2, 1e-1], refused=[1e-2])
    assert assert_same(page, payload, [0.0, 1e-3, 5e-3, 1e-2, 5e-2, 1e-1, 1e-4, 1.0], 2e-5) == 3
    outside, diverging = in_browser(page, payload, [1.0, 5e-3])
    assert "1e-3 to 0.1" in outside
    assert "no scores at this λ" in diverging


def test_a_filter_that_the_page_does_not_know_is_named(page):
    payload = replace(factors(3), filters=(Untwinned(),))
    assert "no-such-filter" in in_browser(page, payload, [0.1])[0]


@pytest.mark.parametrize("method", ["iffim", "trak", "tracin", "if-cg", "if-lissa", "if-explicit", "ekfac", "logra"])
def test_scores_of_a_real_study(page, zoo_study, method):
    configurations = zoo_study.configurations()
    mine = configurations.loc[configurations["method"] == method, "configuration_id"]
    assert len(mine)
    for identity in mine:
        assert assert_same(page, zoo_study.explorer_payload(identity, 4), LAMBDAS, 2e-4) >= 3


def test_lambda_is_written_the_same_way(page):
    values = [0.0, 1e-7, 2.28e-7, 5.6234e-4, 0.0099999, 0.01, 0.0354, 0.5, 0.99999, 1.0, 9.996, 10.0, 1234.0, 3e5]
    written = page.evaluate(
        """async ([module, values]) => {
          const { formatLambda } = await import(URL.createObjectURL(new Blob([module], { type: "text/javascript" })));
          return values.map(formatLambda);
        }""",
        [explorer_module(), values],
    )
    assert written == [regularization_text(value) for value in values]
