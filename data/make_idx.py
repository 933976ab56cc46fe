"""Make a stratified cut of MNIST or Fashion-MNIST: 7 000 training and 2 000 test images.

    python data/make_idx.py mnist FOLDER
    python data/make_idx.py fashion_mnist FOLDER

FOLDER holds the four IDX files as their authors distribute them (gzipped or not): ``train-images-idx3-ubyte``,
``train-labels-idx1-ubyte``, ``t10k-images-idx3-ubyte``, ``t10k-labels-idx1-ubyte``. The cut is a function of the files
alone: within each class the examples are drawn by a fixed seed, in proportion to the class, and kept in file order.
Fashion-MNIST is written in three files, so that each stays below 3 MB: the first and second half of the training
examples, and the test examples.
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import numpy as np
from packing import ship

SIZES = {"train": ("train", 7000), "test": ("t10k", 2000)}
SEED = 20250523
FILES = {
    "mnist": {"mnist.npz": {"train": slice(None), "test": slice(None)}},
    "fashion_mnist": {
        "fashion_mnist_train_a.npz": {"train": slice(0, 3500)},
        "fashion_mnist_train_b.npz": {"train": slice(3500, 7000)},
        "fashion_mnist_test.npz": {"test": slice(None)},
    },
}


def read_idx(folder: Path, name: str) -> np.ndarray:
    """Read one IDX file of unsigned bytes (plain or gzipped) into an array of its declared shape."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.exists():
            raw = path.read_bytes()
            raw = gzip.decompress(raw) if path.suffix == ".gz" else raw
            dims = raw[3]
            shape = np.frombuffer(raw, ">u4", dims, 4)
            if raw[:3] != b"\x00\x00\x08" or len(raw) != 4 + 4 * dims + int(np.prod(shape)):
                sys.exit(f"{path} is not an IDX file of unsigned bytes")
            return np.frombuffer(raw, np.uint8, offset=4 + 4 * dims).reshape(shape)
    sys.exit(f"{folder} has neither {name} nor {name}.gz")


def stratified(labels: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Return ``size`` sorted indices with class shares as close to those of ``labels`` as whole numbers allow."""
    counts = np.bincount(labels)
    shares = counts * (size / len(labels))
    take = np.floor(shares).astype(int)
    for extra in np.argsort(take - shares, kind="stable")[: size - take.sum()]:
        take[extra] += 1
    chosen = [rng.permutation(np.flatnonzero(labels == c))[:k] for c, k in enumerate(take)]
    return np.sort(np.concatenate(chosen))


def main(name: str, folder: Path) -> None:
    """Write the files of one data set."""
    rng = np.random.default_rng(SEED)
    cut: dict[str, dict[str, np.ndarray]] = {}
    for split, (prefix, size) in SIZES.items():
        images = read_idx(folder, f"{prefix}-images-idx3-ubyte")
        labels = read_idx(folder, f"{prefix}-labels-idx1-ubyte")
        keep = stratified(labels, size, rng)
        cut[split] = {"images": images[keep], "labels": labels[keep], "source_index": keep.astype(np.uint16)}
    for file, parts in FILES[name].items():
        ship(
            file, {f"{split}_{key}": array[rows] for split, rows in parts.items() for key, array in cut[split].items()}
        )


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in FILES:
        sys.exit(__doc__)
    main(sys.argv[1], Path(sys.argv[2]))
