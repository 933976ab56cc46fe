"""One λ per layer: the rescaled spectrum at λ = 1 is the sum over layers with their own λ."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tda_backend.errors import UsageError
from tda_backend.numerics.evaluation.by_layer import has_layers, select_by_layer
from tda_backend.numerics.evaluation.indicator import Indicator
from tda_backend.numerics.spectral.contraction import ScoreMatrix, scores
from tda_backend.numerics.spectral.coordinates import Block, Spectrum


def layered(seed: int = 0, scales: tuple[float, float] = (1.0, 1.0)) -> Spectrum:
    generator = torch.Generator().manual_seed(seed)

    def draw(rows):
        return torch.randn(rows, 7, generator=generator, dtype=torch.float64)

    train = draw(30) * torch.tensor([30.0, 10, 3, 1, 0.5, 0.2, 0.1]).sqrt()
    eigenvalues = torch.tensor([30.0, 10, 3, 1, 0.5, 0.2, 0.1], dtype=torch.float64)
    blocks = (Block("first", 4, scales[0]), Block("second", 3, scales[1]))
    return Spectrum(eigenvalues, train, draw(5), draw(9), None, 0, blocks=blocks)


def test_the_rescaled_spectrum_is_the_sum_over_layers():
    spectrum = layered()
    rescaled, chosen = select_by_layer([spectrum], 0.9)
    values = list(chosen.values())
    expected = sum(
        (spectrum.query[:, part] / (spectrum.eigenvalues[part] + value)) @ spectrum.train[:, part].T
        for part, value in zip((slice(0, 4), slice(4, 7)), values, strict=True)
    )
    np.testing.assert_allclose(scores(rescaled, 1.0), expected, rtol=1e-10, atol=1e-12)
    assert values[0] > 5 * values[1]  # layers of different curvature want different λ


def test_each_layer_is_at_the_threshold():
    spectrum = layered(3)
    rescaled, chosen = select_by_layer([spectrum], 0.9)
    assert list(chosen) == ["first", "second"]
    for part in (slice(0, 4), slice(4, 7)):
        one = Spectrum(
            rescaled[0].eigenvalues[part],
            rescaled[0].train[:, part],
            rescaled[0].query[:, part],
            rescaled[0].validation[:, part],
            None,
            0,
        )
        assert Indicator([one]).mean([1.0])[0] == pytest.approx(0.9, abs=1e-6)


def test_relative_blocks_give_absolute_regularizations():
    plain, relative = (select_by_layer([layered(1, scales)], 0.9)[1] for scales in ((1.0, 1.0), (10.0, 0.5)))
    assert relative["first"] == pytest.approx(10 * plain["first"])
    assert relative["second"] == pytest.approx(0.5 * plain["second"])


def test_what_has_no_layers_is_told():
    assert has_layers([layered()])
    assert not has_layers(ScoreMatrix(torch.zeros(2, 3)))
    spectrum = layered()
    whole = Spectrum(spectrum.eigenvalues, spectrum.train, spectrum.query, spectrum.validation, None, 0)
    assert not has_layers([whole])
    with pytest.raises(UsageError, match="same layers"):
        select_by_layer([whole])
