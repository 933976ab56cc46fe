"""The browser's arithmetic is Python's: the same filters, the same products, the same way of writing λ."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest

from app.components.explorer import explorer_module
from app.explorer_data import explorer_scores
from app.formats import regularization_text
from tda_backend.errors import NumericalError

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


def text(values: Any, dtype: str) -> str:
    return base64.b64encode(np.asarray(values, dtype=dtype).tobytes()).decode()


def in_browser(page, payload: dict, lambdas: list[float]) -> list:
    """Return each λ's scores, or the sentence that says why there are none."""
    sent = {
        "filter": payload["filter"], "parameters": payload["parameters"], "cutoff": payload["cutoff"],
        "eigenvalues": text(payload["eigenvalues"], "<f4"), "products": text(payload["products"], "<f4"),
        "parts": payload.get("parts", []), "coordinates": text(payload.get("coordinates", []), "<f8"),
        "outside": payload.get("outside", []),
    }  # fmt: skip
    return page.evaluate(SCORES, [explorer_module(), sent, lambdas])


def assert_same(page, payload: dict, lambdas: list[float], tolerance: float) -> int:
    """Assert that both sides give the same numbers, or none, at each λ; return at how many there are some."""
    found = in_browser(page, payload, lambdas)
    count = 0
    for lam, values in zip(lambdas, found, strict=True):
        try:
            expected = explorer_scores(payload, lam)
        except NumericalError:
            assert isinstance(values, str), lam
            continue
        assert not isinstance(values, str), (lam, values)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(values, expected, atol=tolerance * scale, rtol=0, err_msg=str(lam))
        count += 1
    return count


def factors(width: int, lowest: float = -20.0, rows: int = 17) -> dict[str, Any]:
    """Return made-up factors whose eigenvalues span many decades, as float32."""
    rng = np.random.default_rng(width)
    values = np.sort(np.exp(rng.uniform(lowest, 2, width)))[::-1].astype(np.float32)
    products = (rng.standard_normal((rows, width)) * values).astype(np.float32)
    return {"eigenvalues": values, "products": products, "cutoff": 0.0, "num_train": rows, "parameters": {}}


@pytest.mark.parametrize("width", [1, 3, 64, 1001])
def test_damped_inverse(page, width):
    payload = {**factors(width), "filter": "damped_inverse"}
    assert assert_same(page, payload, LAMBDAS, 2e-5) == len(LAMBDAS)


def test_an_explicit_inverse_is_refused_at_zero_on_a_singular_curvature(page):
    payload = {**factors(20), "filter": "damped_inverse", "parameters": {"refuses_zero": True}}
    assert assert_same(page, payload, LAMBDAS, 2e-5) == len(LAMBDAS) - 1
    assert "singular" in in_browser(page, payload, [0.0])[0]


@pytest.mark.parametrize(("scaling", "depth"), [(5.0, 0), (5.0, 7), (50.0, 1000), (8.0, 5000), (1e3, 100)])
def test_the_mean_of_lissa(page, scaling, depth):
    payload = {**factors(200), "filter": "lissa_mean", "parameters": {"scaling": scaling, "depth": depth}}
    payload["eigenvalues"][-1] = 0.0  # at σ + λ = 0 the weight is (T+1)/s
    largest = float(payload["eigenvalues"][0])
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
    payload = {
        "filter": "krylov", "parameters": {"max_iter": max_iter}, "cutoff": 0.0, "num_train": 17,
        "eigenvalues": np.concatenate([part["eigenvalues"] for part in parts]),
        "products": (train * coordinates / len(sizes)).astype(np.float32), "coordinates": coordinates,
        "parts": list(sizes), "outside": [0.7, 0.0][: len(sizes)],
    }  # fmt: skip
    assert assert_same(page, payload, [1e-3, 0.0354, 1.0, 10.0, 1e4], 2e-5) == 5


def test_conjugate_gradients_of_few_distinct_eigenvalues_are_the_inverse(page):
    values = np.repeat(np.array([3.0, 1.0, 0.25], dtype=np.float32), 4)
    rng = np.random.default_rng(0)
    coordinates = rng.standard_normal(12)
    products = (rng.standard_normal((5, 12)) * coordinates).astype(np.float32)
    payload = {
        "filter": "krylov", "parameters": {"max_iter": 20}, "cutoff": 0.0, "num_train": 5, "eigenvalues": values,
        "products": products, "coordinates": coordinates, "parts": [12], "outside": [0.0],
    }  # fmt: skip
    found = np.array(in_browser(page, payload, [0.5])[0])
    np.testing.assert_allclose(found, products @ (1 / (values + 0.5)), rtol=1e-4, atol=1e-5)


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
