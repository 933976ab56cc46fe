"""A study of two training seeds: influence scores are averaged; TRAK multiplies two averages (TRAK, eq. 17)."""

from __future__ import annotations

import numpy as np
import pytest

import tda_backend as tda
from tda_backend.interfaces.cli.main import main
from tda_backend.interfaces.reading.study import Study
from tests.runs.conftest import TASK

STUDY = """
name = "pair"
task = "tiny_task.py:factory"
seed = 3
[data]
train = 60
validation = 12
queries = 10
[training]
epochs = [4]
seeds = 2
[ground_truth]
subsets = 0
[regularization]
count = 3
[methods.iffim]
projection_dim = [8, "none"]
[methods.trak]
projection_dim = [8, "none"]
"""


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Study:
    folder = tmp_path_factory.mktemp("pair")
    (folder / "tiny_task.py").write_text(TASK)
    (folder / "pair.toml").write_text(STUDY)
    db = folder / "workspace" / "catalogue.duckdb"
    assert main(["run", str(folder / "pair.toml"), "--db", str(db)]) == 0
    return tda.open_study("pair", db=db)


def by_hand(pair: Study, method: str, dim: int | None, regularization: float) -> tuple[np.ndarray, np.ndarray]:
    """Return unweighted scores ``[2, m, n]`` and weights ``[2, n]`` (ones without) of both seeds, in float64."""
    source = pair.source(pair.configuration_id(method, dim, 4))
    products, weights = [], []
    for part in source:
        train, query = part.train.double().numpy(), part.query.double().numpy()
        products.append((query / (part.eigenvalues.double().numpy() + regularization)) @ train.T)
        weights.append(np.ones(len(train)) if part.train_weights is None else part.train_weights.double().numpy())
    return np.stack(products), np.stack(weights)


@pytest.mark.parametrize("dim", [8, None])
@pytest.mark.parametrize("regularization", [1e-2, 1.0])
def test_influence_of_two_seeds_is_the_mean_of_their_scores(pair: Study, dim: int | None, regularization: float):
    first, second = (pair.scores("iffim", regularization, dim, 4, seeds=seed) for seed in (0, 1))
    found = pair.scores("iffim", regularization, dim, 4)
    scale = np.abs(found).max()
    assert np.abs(first - second).max() > 0.1 * scale  # the seeds are two models, not one twice
    np.testing.assert_allclose(found, (first.astype(float) + second) / 2, rtol=1e-4, atol=1e-5 * scale)
    products, _ = by_hand(pair, "iffim", dim, regularization)
    np.testing.assert_allclose(found, products.mean(0), rtol=1e-4, atol=1e-5 * scale)
    np.testing.assert_allclose(first, products[0], rtol=1e-4, atol=1e-5 * scale)
    np.testing.assert_array_equal(pair.scores("iffim", regularization, dim, 4, seeds=[0, 1]), found)


@pytest.mark.parametrize("dim", [8, None])
@pytest.mark.parametrize("regularization", [1e-2, 1.0])
def test_trak_of_two_seeds_is_the_product_of_means(pair: Study, dim: int | None, regularization: float):
    found = pair.scores("trak", regularization, dim, 4)
    products, weights = by_hand(pair, "trak", dim, regularization)
    scale = np.abs(found).max()
    assert np.abs(weights[0] - weights[1]).max() > 1e-3
    np.testing.assert_allclose(found, products.mean(0) * weights.mean(0), rtol=1e-4, atol=1e-5 * scale)
    mean_of_products = (products * weights[:, None]).mean(0)
    assert np.abs(found - mean_of_products).max() > 1e-3 * scale
    singles = [pair.scores("trak", regularization, dim, 4, seeds=seed) for seed in (0, 1)]
    np.testing.assert_allclose(np.mean(singles, axis=0), mean_of_products, rtol=1e-4, atol=1e-5 * scale)
