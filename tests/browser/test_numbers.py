"""The browser's arithmetic is Python's: the same filter, the same products, the same way of writing λ."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from app.components.explorer import explorer_module
from app.formats import regularization_text
from app.services import explorer_scores

SCORES = """
async ([module, values, products, kind, cutoff, lambdas]) => {
  const url = URL.createObjectURL(new Blob([module], { type: "text/javascript" }));
  const { decodeFloat32, filter, multiply } = await import(url);
  const sigma = decodeFloat32(values), rows = decodeFloat32(products);
  return lambdas.map((lambda) => {
    const weights = filter(kind, sigma, cutoff, lambda, new Float32Array(sigma.length));
    return [...multiply(rows, weights, new Float32Array(rows.length / sigma.length))];
  });
}
"""
LAMBDAS = [0.0, 1e-7, 3.3e-4, 0.0354, 10.0]


def in_browser(page, payload: dict) -> np.ndarray:
    encode = [base64.b64encode(payload[name].tobytes()).decode() for name in ("eigenvalues", "products")]
    arguments = [explorer_module(), *encode, payload["filter"], payload["cutoff"], LAMBDAS]
    return np.array(page.evaluate(SCORES, arguments))


@pytest.mark.parametrize("width", [1, 3, 64, 1001])
def test_scores_of_made_up_factors(page, width):
    rng = np.random.default_rng(width)
    values = np.sort(np.exp(rng.uniform(-20, 2, width)))[::-1].astype(np.float32)
    products = (rng.standard_normal((17, width)) * values).astype(np.float32)
    payload = {"eigenvalues": values, "products": products, "filter": "damped_inverse", "cutoff": float(values[-1])}
    expected = np.array([explorer_scores(payload, value) for value in LAMBDAS])
    scale = np.abs(products).astype(np.float64) @ (1 / values.astype(np.float64))
    assert (np.abs(in_browser(page, payload) - expected) <= 1e-5 * scale).all()


@pytest.mark.parametrize("method", ["iffim", "trak", "tracin"])
def test_scores_of_a_real_study(page, study, method):
    configurations = study.configurations()
    for identity in configurations.loc[configurations["method"] == method, "configuration_id"]:
        payload = study.explorer_payload(identity, 4)
        expected = np.array([explorer_scores(payload, value) for value in LAMBDAS])
        largest = np.abs(expected).max(axis=1, keepdims=True)
        assert (np.abs(in_browser(page, payload) - expected) <= 1e-4 * largest).all()


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
