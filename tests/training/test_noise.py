"""Label noise: exact counts, another class always, nested fractions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tda_backend.errors import DataError, UsageError
from tda_backend.models.tasks.noise import flip_labels


@settings(max_examples=60, deadline=None)
@given(
    num_rows=st.integers(1, 60),
    percent=st.integers(0, 100),
    num_classes=st.integers(2, 7),
    seed=st.integers(0, 2**31),
)
def test_flips_exactly_that_many_of_the_rows_and_to_another_class(num_rows, percent, num_classes, seed):
    labels = torch.from_numpy(np.random.default_rng(seed).integers(0, num_classes, 80))
    rows = np.random.default_rng(seed + 1).permutation(80)[:num_rows]
    before = labels.clone()
    noisy, flipped = flip_labels(labels, rows, percent / 100, num_classes, seed)
    assert torch.equal(labels, before)
    assert int(flipped.sum()) == percent * num_rows // 100
    assert torch.equal(noisy != labels, flipped)
    assert set(flipped.nonzero()[:, 0].tolist()) <= set(rows.tolist())
    assert int(noisy.min()) >= 0
    assert int(noisy.max()) < num_classes
    assert noisy.dtype == labels.dtype


def test_a_smaller_fraction_is_part_of_a_larger_one_and_seeds_differ():
    labels, rows = torch.arange(500) % 10, np.arange(100, 400)
    few, few_flipped = flip_labels(labels, rows, 0.1, 10, 3)
    many, many_flipped = flip_labels(labels, rows, 0.3, 10, 3)
    assert bool(many_flipped[few_flipped].all())
    assert torch.equal(few[few_flipped], many[few_flipped])
    again, _ = flip_labels(labels, rows, 0.3, 10, 3)
    other, _ = flip_labels(labels, rows, 0.3, 10, 4)
    assert torch.equal(many, again)
    assert not torch.equal(many, other)


def test_the_other_classes_are_equally_likely():
    """10 000 flips of class 4 among nine others: each count within five deviations of the mean."""
    noisy, _ = flip_labels(torch.full((10_000,), 4), np.arange(10_000), 1.0, 10, 0)
    counts = np.delete(np.bincount(noisy.numpy(), minlength=10), 4)
    mean = 10_000 / 9
    assert np.abs(counts - mean).max() < 5 * np.sqrt(mean)
    assert (noisy != 4).all()


@pytest.mark.parametrize(
    ("rows", "fraction", "classes", "error"),
    [
        ([0, 1], 1.1, 3, UsageError),
        ([0, 0], 0.5, 3, UsageError),
        ([0, 9], 0.5, 3, UsageError),
        ([0, 1], 0.5, 1, DataError),
        ([0, 1], 0.5, 2, DataError),
    ],
)
def test_refuses_what_has_no_meaning(rows, fraction, classes, error):
    with pytest.raises(error):
        flip_labels(torch.tensor([0, 1, 2, 0]), rows, fraction, classes, 0)
