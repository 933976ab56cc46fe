"""Stored coordinates come back with the filter of the configuration that asks, whatever kind of step stored them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from torch import Tensor

from tda_backend.numerics.spectral import contraction
from tda_backend.numerics.spectral.coordinates import Coordinates
from tda_backend.numerics.spectral.filters.base import Filter
from tda_backend.studies.methods import METHODS
from tda_backend.studies.steps.coordinates import Kronecker
from tda_backend.studies.steps.source import read_source
from tda_backend.studies.steps.spectrum import SpectrumStep, write_spectrum
from tda_backend.studies.store.artifacts import ArtifactStore, ArtifactWriter
from tests.helpers_numerics import assert_close, make_spectrum, random_rows
from tests.spectral.test_kronecker import random_spectrum, written_out


@dataclass(frozen=True)
class Root(Filter):
    """φ(σ; λ) = (σ+λ)^(−1/2)."""

    num_cut: int
    num_eigenvalues: int

    NAME: ClassVar[str] = "root"

    def phi(self, sigma: Tensor, regularization: float, num_train: int) -> Tensor:
        """Return φ, ``[r]``."""
        return (sigma + regularization).rsqrt()


def dense() -> Coordinates:
    return make_spectrum(*random_rows(0, (20, 6), (5, 6), decay=0.5))


def kronecker() -> Coordinates:
    return random_spectrum()


def write(kind: str, writer: ArtifactWriter, coordinates) -> None:
    if kind == SpectrumStep.NAME:
        write_spectrum(writer, coordinates)
        return
    for name, values in coordinates.to_arrays().items():
        writer.array(name, values)
    writer.facts["num_cut"] = int(coordinates.num_cut)


@pytest.mark.parametrize(("kind", "make"), [(SpectrumStep.NAME, dense), (Kronecker.NAME, kronecker)])
def test_stored_coordinates_take_the_filter_that_is_asked_for(kind, make, tmp_path: Path):
    store, coordinates = ArtifactStore(tmp_path), make()
    with store.writing("0" * 64, kind, {}, []) as writer:
        write(kind, writer, coordinates)
    (read,) = read_source(store, kind, ["0" * 64], Root)
    assert isinstance(read.filter, Root)
    assert read.filter.num_cut == coordinates.num_cut
    whole = written_out(coordinates) if kind == Kronecker.NAME else coordinates
    phi = (whole.eigenvalues.double() + 0.3).rsqrt()
    expected = (whole.query.double() * phi) @ whole.train.double().T
    assert_close(contraction.scores([read], 0.3), expected, 1e-9)


@pytest.mark.parametrize("name", METHODS)
def test_a_methods_filter_takes_its_hyper_parameters_from_the_configuration(name: str):
    spec = METHODS[name]
    inside = {item.name: item.usual for item in spec.hyperparameters if item.in_filter}
    found = spec.filter({item.name: item.usual for item in spec.hyperparameters}, 1, 5)
    assert type(found) is spec.phi
    assert inside.items() <= found.parameters().items()
