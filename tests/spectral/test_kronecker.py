"""Kronecker spectra against their own coordinates written out: parts, sums, storing, and scores at many λ."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tda_backend.errors import ArtifactError, NumericalError, UsageError
from tda_backend.numerics.spectral import contraction
from tda_backend.numerics.spectral.coordinates import Block, Spectrum
from tda_backend.numerics.spectral.filters.krylov import Krylov
from tda_backend.numerics.spectral.kronecker import rows as kronecker_rows
from tda_backend.numerics.spectral.kronecker import scores as kronecker_scores
from tda_backend.numerics.spectral.kronecker import spectrum as kronecker
from tda_backend.numerics.spectral.kronecker.rows import DenseRows, FactoredRows, LayerRows
from tda_backend.numerics.spectral.kronecker.spectrum import KroneckerBlock, KroneckerSpectrum, kronecker_block
from tests.helpers_numerics import assert_close

REGULARIZATIONS = (0.0, 1e-6, 1e-3, 0.1, 10.0)


def random_rows(form: str, num: int, shape: tuple[int, int], seed: int, dtype=torch.float64) -> LayerRows:
    generator = torch.Generator().manual_seed(seed)
    num_outputs, num_inputs = shape
    decay = 10.0 ** -torch.linspace(0, 2, num_inputs)

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    if form == "dense":
        return DenseRows((draw(num, num_outputs, num_inputs) * decay).to(dtype))
    positions = (3,) if form == "positions" else ()
    inputs = draw(num, *positions, num_inputs) * decay
    return FactoredRows(inputs.to(dtype), draw(num, *positions, num_outputs).to(dtype))


def random_spectrum(forms=("single", "positions", "dense"), dtype=torch.float64, size=(17, 9), **options):
    """Return a spectrum of three layers whose eigenvalues are the mean squares of other rows."""
    layers = []
    for index, (form, shape) in enumerate(zip(forms, ((4, 5), (3, 6), (5, 2)), strict=False)):
        train, query, validation = (
            random_rows(form, num, shape, 10 * index + offset, dtype) for offset, num in enumerate((*size, 4))
        )
        other = random_rows(form, 30, shape, 10 * index + 7).values()
        layers.append(
            kronecker_block(
                KroneckerBlock(form, other.square().mean(0).view(shape), train, query, validation), **options
            )
        )
    return KroneckerSpectrum(tuple(layers))


def written_out(spectrum: KroneckerSpectrum) -> Spectrum:
    """Return the same coordinates as matrices."""
    parts = [torch.cat([getattr(b, g).values() for b in spectrum.layers], 1) for g in ("train", "query", "validation")]
    return Spectrum(
        spectrum.eigenvalues, *parts, None, 0, blocks=tuple(Block(b.name, b.size, b.scale) for b in spectrum.layers)
    )


@pytest.fixture(params=[16384, 7, 1], ids=lambda size: f"parts of {size}")
def part_size(request, monkeypatch):
    monkeypatch.setattr(kronecker, "PART_SIZE", request.param)
    monkeypatch.setattr(kronecker_rows, "_NUMBERS", 64)
    return request.param


def test_parts_cover_all_coordinates_in_order(part_size: int):
    spectrum, dense = random_spectrum(), written_out(random_spectrum())
    parts = spectrum.parts()
    assert torch.equal(torch.cat([part.eigenvalues for part in parts]), spectrum.eigenvalues)
    for group in ("train", "query", "validation"):
        assert_close(torch.cat([part.rows(group) for part in parts], 1), getattr(dense, group), 1e-12)
        index = torch.tensor([3, 0, 1])
        chosen = torch.cat([part.rows(group, index) for part in parts], 1)
        assert_close(chosen, getattr(dense, group)[index], 1e-12)
    assert [block.size for block in spectrum.blocks] == [20, 18, 10]


@pytest.mark.parametrize("num_vectors", [1, 2, 40])
def test_products_and_sums_equal_those_of_written_out_coordinates(part_size: int, num_vectors: int):
    generator = torch.Generator().manual_seed(0)
    for part in random_spectrum().parts():
        train = part.rows("train")
        vectors = torch.randn(num_vectors, train.shape[1], generator=generator, dtype=torch.float64)
        assert_close(part.products(vectors), vectors @ train.T, 1e-12)
        masks = torch.randn(num_vectors, len(train), generator=generator, dtype=torch.float64)
        assert_close(part.sums(masks), masks @ train, 1e-12)


def test_contraction_gives_what_dense_coordinates_give(part_size: int):
    spectrum, dense = random_spectrum(), written_out(random_spectrum())
    masks = np.random.default_rng(0).random((6, 17)) < 0.5
    for value in REGULARIZATIONS:
        assert_close(contraction.scores([spectrum], value), contraction.scores([dense], value), 1e-10)
        assert_close(contraction.scores([spectrum], value, 3), contraction.scores([dense], value, 3), 1e-10)
        for name, scores in contraction.block_scores([dense], value).items():
            assert_close(contraction.block_scores([spectrum], value)[name], scores, 1e-10)
    for function in (contraction.self_influence, lambda s, v: contraction.subset_sums(s, masks, v)):
        assert_close(function([spectrum], REGULARIZATIONS), function([dense], REGULARIZATIONS), 1e-10)


@pytest.mark.parametrize("memory_mapped", [False, True])
def test_stored_arrays_give_the_same_spectrum(tmp_path, memory_mapped: bool):
    spectrum = random_spectrum(damping="relative")
    arrays = spectrum.to_arrays()
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    mode = "c" if memory_mapped else None
    stored = {name: np.load(tmp_path / f"{name}.npy", mmap_mode=mode) for name in arrays}
    again = KroneckerSpectrum.from_arrays(stored)
    assert again.blocks == spectrum.blocks
    assert again.num_cut == spectrum.num_cut
    for value in (1e-3, 0.1):
        assert np.array_equal(contraction.scores([again], value), contraction.scores([spectrum], value))


def test_damaged_arrays_are_refused():
    arrays = random_spectrum().to_arrays()
    with pytest.raises(ArtifactError, match=r"query\.inputs\.0"):
        KroneckerSpectrum.from_arrays({k: v for k, v in arrays.items() if k != "query.inputs.0"})
    with pytest.raises(ArtifactError, match=r"train rows of layer 'single'"):
        KroneckerSpectrum.from_arrays({**arrays, "train.deltas.0": arrays["train.deltas.0"][:, :2]})


def test_relative_damping_is_the_absolute_one_times_the_scale():
    absolute, relative = random_spectrum(), random_spectrum(damping="relative")
    for block in relative.blocks:
        expected = contraction.block_scores([absolute], 0.1 * block.scale)[block.name]
        assert_close(contraction.block_scores([relative], 0.1)[block.name], expected, 1e-10)


def test_eigenvalues_at_rounding_level_count_as_zero():
    values = torch.tensor([[1.0, 0.5], [1e-20, 0.0]], dtype=torch.float64)
    rows = [random_rows("single", num, (2, 2), num) for num in (5, 3, 2)]
    spectrum = KroneckerSpectrum((kronecker_block(KroneckerBlock("a", values, *rows)),))
    assert spectrum.num_cut == 2
    truth = written_out(spectrum)
    pseudo = (truth.query[:, :2] / values[0]) @ truth.train[:, :2].T
    assert_close(contraction.scores([spectrum], 0.0), pseudo, 1e-12)
    damped = (truth.query / (values.flatten() + 0.1)) @ truth.train.T
    assert_close(contraction.scores([spectrum], 0.1), damped, 1e-12)


def test_null_directions_stay_where_train_coordinates_do_not_vanish():
    values = torch.ones(2, 3, dtype=torch.float64)
    train, query, validation = (random_rows("single", num, (2, 3), num) for num in (5, 3, 2))
    assert isinstance(train, FactoredRows)
    null = {"null_inputs": torch.tensor([False, True, True]), "null_outputs": torch.tensor([True, False])}
    kept = kronecker_block(KroneckerBlock("a", values, train, query, validation), **null)
    assert (kept.size, kept.num_null) == (6, 0)
    train.inputs[:, 1] = 0
    train.deltas[:, 0] = 1e-18
    dropped = kronecker_block(KroneckerBlock("a", values, train, query, validation), **null)
    assert (dropped.size, dropped.num_null) == (2, 4)
    dense = DenseRows(train.values().view(5, 2, 3))
    assert kronecker_block(KroneckerBlock("a", values, dense, query, validation), **null).num_null == 4


def test_bad_eigenvalues_are_refused_by_name():
    rows = [random_rows("single", num, (2, 2), num) for num in (5, 3, 2)]
    for value, message in ((-1.0, "negative"), (float("nan"), "not finite"), (0.0, "is 0")):
        with pytest.raises(NumericalError, match=f"layer 'head'.*{message}"):
            kronecker_block(KroneckerBlock("head", torch.full((2, 2), value, dtype=torch.float64), *rows))
    with pytest.raises(UsageError, match="absolute, relative"):
        kronecker_block(KroneckerBlock("head", torch.ones(2, 2, dtype=torch.float64), *rows), damping="some")


# --- scores at several λ ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [2048, 8, 1])
@pytest.mark.parametrize("numbers", [2**25, 16])
def test_without_tolerance_scores_are_exact(window: int, numbers: int, monkeypatch):
    monkeypatch.setattr(kronecker_scores, "_WINDOW", window)
    monkeypatch.setattr(kronecker_scores, "_NUMBERS", numbers)
    spectrum = random_spectrum()
    actual = kronecker_scores.kronecker_scores(spectrum, REGULARIZATIONS, tolerance=0)
    for scores, value in zip(actual, REGULARIZATIONS, strict=True):
        assert_close(scores, contraction.scores([spectrum], value), 1e-10)
    some = kronecker_scores.kronecker_scores(spectrum, REGULARIZATIONS, queries=[4, 0], tolerance=0)
    assert_close(some, actual[:, [4, 0]], 1e-10)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.floats(-10, 3), min_size=1, max_size=12),
    st.floats(0, 12),
    st.sampled_from([1e-3, 1e-6, 1e-9]),
    st.integers(0, 5),
)
def test_the_compression_keeps_its_tolerance(logs: list[float], spread: float, tolerance: float, seed: int):
    shape = (20, 30)
    generator = torch.Generator().manual_seed(seed)
    scales = 10.0 ** (-spread * torch.rand(shape, generator=generator, dtype=torch.float64))
    rows = [random_rows("single", num, shape, seed + num) for num in (25, 15, 2)]
    spectrum = KroneckerSpectrum((kronecker_block(KroneckerBlock("a", scales, *rows)),))
    values = [10.0**log for log in logs]
    actual = kronecker_scores.kronecker_scores(spectrum, values, tolerance=tolerance)
    dense = written_out(spectrum)
    for scores, value in zip(actual, values, strict=True):
        phi = 1 / (spectrum.eigenvalues + value)
        expected = (dense.query * phi) @ dense.train.T
        permitted = float((phi * dense.query.norm(dim=0) * dense.train.norm(dim=0)).norm())
        # Twice: examples are few here, so coordinates are not quite uncorrelated.
        assert float((scores - expected).norm()) <= 2 * tolerance * permitted + 1e-12 * float(expected.norm())


def test_float32_scores_are_within_the_stated_tolerance_of_the_exact_product():
    single = random_spectrum(dtype=torch.float32, size=(200, 50))
    double = random_spectrum(dtype=torch.float64, size=(200, 50))
    values = [10.0**log for log in np.linspace(-8, 1, 10)]
    actual = kronecker_scores.kronecker_scores(single, values)
    for scores, value in zip(actual, values, strict=True):
        expected = torch.from_numpy(contraction.scores([double], value))
        assert float((scores.double() - expected).norm()) <= 2e-6 * float(expected.norm())


def test_the_number_of_products_grows_slower_than_the_number_of_dampings(monkeypatch):
    monkeypatch.setattr(kronecker_scores, "_WINDOW", 256)  # 6 000 coordinates here, a hundred thousand in earnest
    shape = (60, 100)
    generator = torch.Generator().manual_seed(0)
    scales = 10.0 ** (-8 * torch.rand(shape, generator=generator, dtype=torch.float64))
    rows = [random_rows("single", num, shape, num) for num in (40, 20, 2)]
    spectrum = KroneckerSpectrum((kronecker_block(KroneckerBlock("a", scales, *rows)),))

    def mean_rank(values: list[float]) -> float:
        windows = kronecker_scores._plan(spectrum, values, torch.arange(20), 1e-6)
        return sum(w.functions.numel() for w in windows) / sum(w.functions.shape[1] for w in windows)

    assert mean_rank([1e2, 1e3, 1e4, 1e5, 1e6]) < 3
    assert mean_rank([10.0**log for log in np.linspace(-7, 1, 33)]) < 10


def test_query_dependent_filters_and_bad_settings_are_refused():
    spectrum = random_spectrum()
    with pytest.raises(UsageError, match="depends on the query"):
        kronecker_scores.kronecker_scores(KroneckerSpectrum(spectrum.layers, filter=Krylov(3)), [0.1])
    with pytest.raises(UsageError, match="at least one"):
        kronecker_scores.kronecker_scores(spectrum, [])
    with pytest.raises(NumericalError, match="-1"):
        kronecker_scores.kronecker_scores(spectrum, [-1.0])
