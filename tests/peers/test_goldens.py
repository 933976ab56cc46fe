"""Our methods against stored values of kronfluence 1.0.1, dattri 0.3.0 and traker 0.3.2, and against the dense truth.

No peer is needed: :mod:`tests.peers.recipe` made the values. Peers' scores are converted here, where they are compared:
kronfluence's ``[m, n]`` with a margin as measurement predicts its *rise* on removal (our negative); dattri's and
traker's are ``[n, m]``, positive helps. Stored values are float32, so agreement ends at about 1e-7.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tda_backend.attribution.ekfac import ekfac_spectrum
from tda_backend.features.checkpoint_features import CheckpointFeatures, checkpoint_features
from tda_backend.spectral.contraction import scores, self_influence
from tda_backend.training.tasks import ClassificationTask
from tda_backend.types import Batch
from tests.peers import truth
from tests.peers.cases import DAMPINGS, GOLDENS, VERSIONS, Case, load_case, load_golden
from tests.peers.recipe import (
    sampled_labels,
)

pytestmark = pytest.mark.shipped_data
ROUNDING = 2e-7
"""Relative to the largest score: what storing float32 leaves."""


class LossQueries(ClassificationTask):
    """A built-in task queried by its loss, as dattri's influence functions are: scores become ∇ℓ'ᵀC⁻¹∇ℓ."""

    measurement_sign = -1
    margin_identity = False

    def __init__(self, task: ClassificationTask) -> None:
        self.name, self._task = f"{task.name}-loss", task

    def datasets(self) -> dict[str, Any]:
        return self._task.datasets()

    def build_model(self, seed: int) -> torch.nn.Module:
        return self._task.build_model(seed)

    def measurement(self, model: torch.nn.Module, batch: Batch) -> Tensor:
        return self.train_loss(model, batch)


@pytest.fixture(scope="module")
def case() -> Case:
    """The perceptron at its last checkpoint."""
    return load_case("mnist-mlp")


@pytest.fixture(scope="module")
def linear() -> Case:
    """Logistic regression with four checkpoints."""
    return load_case("mnist-lr")


@pytest.fixture(scope="module")
def kronfluence() -> dict[str, np.ndarray]:
    """Values of kronfluence."""
    return load_golden("kronfluence")


@pytest.fixture(scope="module")
def dattri() -> dict[str, np.ndarray]:
    """Values of dattri."""
    return load_golden("dattri")


def groups(case: Case, **settings: Any) -> dict[str, Any]:
    """Return the arguments that say which rows take part; two queries double as validation rows."""
    num, queries = len(case.data["train"]["y"]), len(case.data["test"]["y"])
    return {
        "data": case.data, "train_indices": range(num), "validation_indices": range(2), "query_indices": range(queries),
        **settings,
    }  # fmt: skip


def features(case: Case, epoch: int | None = None, task: ClassificationTask | None = None) -> CheckpointFeatures:
    """Return the features at a checkpoint in float64."""
    return checkpoint_features(task or case.task, case.model(epoch), **groups(case))


def agree(ours: Any, theirs: Any, tolerance: float = ROUNDING) -> None:
    """Compare relative to the largest value, and by Pearson correlation for each query (row)."""
    left, right = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    assert left.shape == right.shape
    error = np.abs(left - right).max() / np.abs(right).max()
    assert error <= tolerance, f"relative error {error:.3g} > {tolerance:g}"
    assert lowest_pearson(left, right) >= 0.999


def lowest_pearson(left: Any, right: Any) -> float:
    """Return the smallest correlation over rows."""
    pairs = zip(np.atleast_2d(np.asarray(left)), np.atleast_2d(np.asarray(right)), strict=True)
    return min(float(np.corrcoef(a, b)[0, 1]) for a, b in pairs)


def test_golden_files_are_small_pickle_free_and_of_the_pinned_versions():
    """At most 1 MB together; the versions stored are those of the extra ``peers``."""
    files = sorted(GOLDENS.glob("*.npz"))
    assert sum(file.stat().st_size for file in files) <= 10**6
    pinned = (GOLDENS.parents[2] / "pyproject.toml").read_text()
    for name, version in VERSIONS.items():
        assert str(load_golden(name)["version"]) == version
        assert f'"{name}=={version}"' in pinned
    for file in files:
        assert not any(value.dtype.hasobject for value in load_golden(file.stem).values())


class TestKronfluence:
    """EK-FAC, K-FAC and the diagonal. True Fisher: kronfluence was given our sampled labels, in both of its passes."""

    @pytest.mark.parametrize("damping", DAMPINGS)
    @pytest.mark.parametrize("fisher", ["true", "empirical"])
    def test_ekfac_pairwise_and_self_scores(self, case, kronfluence, fisher, damping):
        """−(our scores) = kronfluence's, to the precision stored; also at damping 1e-8, in kronfluence's own units."""
        self.compare(case, kronfluence, "ekfac", fisher, damping)

    @pytest.mark.parametrize("kind", ["kfac", "diagonal"])
    def test_cheaper_curvatures(self, case, kronfluence, kind):
        """K-FAC and the diagonal are kronfluence's strategies of these names."""
        self.compare(case, kronfluence, kind, "true", "1e-3")

    def compare(self, case: Case, golden: dict[str, np.ndarray], kind: Any, fisher: Any, damping: str) -> None:
        value = DAMPINGS[damping]
        labels = torch.from_numpy(golden["labels"].astype(np.int64))
        spectrum = ekfac_spectrum(
            case.task, case.model(), **groups(case), kind=kind, fisher=fisher,
            damping="relative" if value is None else "absolute", targets=labels if fisher == "true" else None,
        )  # fmt: skip
        regularization = 0.1 if value is None else value
        agree(-scores([spectrum], regularization), golden[f"{kind}-{fisher}/pairwise/{damping}"])
        agree(self_influence([spectrum], [regularization])[0], golden[f"{kind}-{fisher}/self/{damping}"])

    @pytest.mark.parametrize("key", ["ekfac-true", "ekfac-empirical", "kfac-true", "diagonal-true"])
    def test_the_dense_truth_agrees(self, case, kronfluence, key):
        """kronfluence is right: explicit Kronecker products give its numbers."""
        strategy, fisher = key.split("-")
        labels = torch.from_numpy(kronfluence["labels"].astype(np.int64)) if fisher == "true" else case.rows("train")[1]
        model = case.model()
        product = truth.kronecker_truth(model, case.rows("train"), labels, strategy, 1e-3)
        losses = truth.gradients(model, case.rows("train"), truth.loss)
        margins = truth.gradients(model, case.rows("test"), truth.margin)
        agree(product(margins, losses), kronfluence[f"{key}/pairwise/1e-3"])

    def test_float32_costs_kronfluence_little_even_at_the_smallest_damping(self, kronfluence):
        """Its default precision at damping 1e-8: relative error 1.4e-3, Pearson above .9999."""
        ours, rounded = kronfluence["ekfac-true/pairwise/1e-8"], kronfluence["ekfac-true-float32/pairwise/1e-8"]
        assert 1e-5 < np.abs(ours - rounded).max() / np.abs(ours).max() < 1e-2
        assert lowest_pearson(ours, rounded) > 0.9999

    def test_labels_were_sampled_by_the_recipe(self, case, kronfluence):
        """The stored labels are a draw from the model's predictions, not the data's labels."""
        assert (kronfluence["labels"] != case.rows("train")[1].numpy()).any()
        assert (kronfluence["labels"] == sampled_labels(case).numpy()).mean() > 0.99
