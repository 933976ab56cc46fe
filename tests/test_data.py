"""The shipped data are what data/README.md says they are."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

DATA = Path(__file__).resolve().parent.parent / "data"
CHECKSUMS: dict[str, str] = json.loads((DATA / "checksums.json").read_text())


@pytest.mark.parametrize("name", sorted(CHECKSUMS))
def test_checksum_matches_and_is_documented(name: str):
    digest = hashlib.sha256((DATA / name).read_bytes()).hexdigest()
    assert digest == CHECKSUMS[name]
    assert digest in (DATA / "README.md").read_text()
    assert (DATA / name).stat().st_size < 3 << 20


def test_mnist_is_stratified_and_disjoint_from_nothing_but_itself():
    with np.load(DATA / "mnist.npz", allow_pickle=False) as archive:
        arrays = dict(archive)
    for split, size in (("train", 7000), ("test", 2000)):
        images, labels, source = (arrays[f"{split}_{part}"] for part in ("images", "labels", "source_index"))
        assert images.shape == (size, 28, 28)
        assert images.dtype == np.uint8
        assert labels.shape == source.shape == (size,)
        assert len(np.unique(source)) == size
        shares = np.bincount(labels, minlength=10) / size
        assert shares.min() > 0.085
        assert shares.max() < 0.12
        assert images.reshape(size, -1).any(axis=1).all()
