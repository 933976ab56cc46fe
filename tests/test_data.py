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


def merged(*names: str) -> dict[str, np.ndarray]:
    """The arrays of several files, those of one name joined along the examples."""
    parts: dict[str, list[np.ndarray]] = {}
    for name in names:
        with np.load(DATA / f"{name}.npz", allow_pickle=False) as archive:
            for key, array in archive.items():
                parts.setdefault(key, []).append(array)
    return {key: np.concatenate(arrays) for key, arrays in parts.items()}


FASHION = ("fashion_mnist_train_a", "fashion_mnist_train_b", "fashion_mnist_test")


@pytest.mark.parametrize("names", [("mnist",), FASHION], ids=["mnist", "fashion-mnist"])
def test_images_are_stratified_and_drawn_once(names: tuple[str, ...]):
    arrays = merged(*names)
    for split, size in (("train", 7000), ("test", 2000)):
        images, labels, source = (arrays[f"{split}_{part}"] for part in ("images", "labels", "source_index"))
        assert images.shape == (size, 28, 28)
        assert images.dtype == np.uint8
        assert labels.shape == source.shape == (size,)
        assert len(np.unique(source)) == size
        assert (np.diff(source.astype(int)) > 0).all()
        shares = np.bincount(labels, minlength=10) / size
        assert shares.min() > 0.085
        assert shares.max() < 0.12
        assert images.reshape(size, -1).any(axis=1).all()


def test_mnist_is_the_file_that_studies_refer_to():
    """Its bytes decide the identity of every stored MNIST result."""
    assert CHECKSUMS["mnist.npz"] == "f4f77a7dcf26b7d6835593c99ea4709ee69094b5bdeb4f438a02408f9c5900e0"


@pytest.mark.parametrize(
    ("name", "rows", "columns", "mean_target", "mean_input"),
    [("concrete", 1030, 8, 35.82, 281.17), ("diabetes", 442, 10, 152.13, 48.52)],
)
def test_tables_have_the_published_sizes_and_means(
    name: str, rows: int, columns: int, mean_target: float, mean_input: float
):
    """Means as their publishers' descriptions give them: mean strength 35.82 MPa, mean age 48.5 years."""
    arrays = merged(name)
    assert arrays["inputs"].shape == (rows, columns)
    assert arrays["targets"].shape == (rows,)
    assert arrays["columns"].shape == (columns,)
    assert np.isfinite(arrays["inputs"]).all()
    assert arrays["targets"].mean() == pytest.approx(mean_target, abs=0.01)
    assert arrays["inputs"][:, 0].mean() == pytest.approx(mean_input, abs=0.01)
    assert (arrays["inputs"].std(axis=0) > 0).all()
