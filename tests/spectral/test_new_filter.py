"""A filter is one small class: what the base class gives to it, shown by a family of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from tda_backend.errors import NumericalError
from tda_backend.numerics.spectral.contraction import admissible, scores, self_influence, subset_sums
from tda_backend.numerics.spectral.filters.base import Filter
from tda_backend.numerics.spectral.filters.damped import DampedInverse, StrictDampedInverse
from tda_backend.numerics.spectral.filters.identity import Identity
from tda_backend.numerics.spectral.filters.krylov import Krylov
from tda_backend.numerics.spectral.filters.lissa import LissaMean
from tda_backend.numerics.spectral.one_query import score_curves
from tests.helpers_numerics import assert_close, make_spectrum, random_rows


@dataclass(frozen=True)
class Landweber(Filter):
    """φ(σ; λ, t) = [1−(1−ησ)^t]/σ with η = 1/(σ_max+λ): t steps of gradient descent from 0."""

    steps: int

    NAME: ClassVar[str] = "landweber"

    def phi(self, sigma: Tensor, regularization: float, num_train: int) -> Tensor:
        """Return φ, ``[r]``."""
        return (1 - (1 - sigma / (sigma.max() + regularization)) ** self.steps) / sigma


def test_the_base_class_says_the_rest():
    own = Landweber(30)
    assert (own.name, own.parameters()) == ("landweber", {"steps": 30})
    assert (own.depends_on_query, own.has_twin) == (False, False)
    assert own.formula.startswith("φ(σ; λ, t) = ")
    assert own == Landweber(30)


def test_a_new_filter_goes_through_every_contraction():
    train, query = random_rows(0, (20, 6), (5, 6), decay=0.5)
    spectrum = replace(make_spectrum(train, query), filter=Landweber(7))
    fisher = train.T @ train / 20
    values, vectors = torch.linalg.eigh(fisher)
    phi = vectors @ torch.diag(Landweber(7).phi(values, 0.3, 20)) @ vectors.T
    expected = query @ phi @ train.T
    assert_close(scores([spectrum], 0.3), expected, 1e-10)
    assert_close(score_curves([spectrum], 2, [0.1, 0.3])[1], expected[2], 1e-10)
    masks = torch.eye(20, dtype=torch.bool)[:4]
    assert_close(subset_sums([spectrum], masks, [0.3])[0], expected[:, :4].T, 1e-10)
    assert_close(self_influence([spectrum], [0.3])[0], ((train @ phi) * train).sum(1), 1e-10)


def test_bad_arguments_and_results_are_refused_for_it():
    sigma = torch.tensor([2.0, 0.0], dtype=torch.float64)
    with pytest.raises(NumericalError, match="λ = -1"):
        Landweber(3).weights(sigma, -1.0, 10)
    with pytest.raises(NumericalError, match="negative or not finite"):
        Landweber(3).weights(-sigma, 1.0, 10)
    with pytest.raises(NumericalError, match=r"landweber is not finite at λ = 1\."):  # 0/0 at σ = 0
        Landweber(3).weights(sigma, 1.0, 10)


@pytest.mark.parametrize(
    ("own", "parameters"),
    [
        (DampedInverse(), {}),
        (StrictDampedInverse(0, 5), {"refuses_zero": False}),
        (StrictDampedInverse(2, 5), {"refuses_zero": True}),
        (LissaMean(5.0, 3), {"scaling": 5.0, "depth": 3}),
        (Krylov(4), {"max_iter": 4}),
        (Identity(), {}),
    ],
)
def test_shipped_filters_state_their_parameters_and_have_a_twin(own: Filter, parameters):
    assert own.parameters() == parameters
    assert own.has_twin
    assert own.formula


def test_the_identity_leaves_dot_products_at_every_regularization():
    train, query = random_rows(1, (12, 4), (3, 4))
    spectrum = replace(make_spectrum(train, query), filter=Identity())
    assert admissible([spectrum], [0.0, 1.0]) == [0.0, 1.0]
    for value in (0.0, 1.0):
        assert_close(scores([spectrum], value), query @ train.T, 1e-10)
