"""Make ``mnist.npz``: a stratified cut of MNIST, 7 000 training and 2 000 test images.

    python data/make_mnist.py FOLDER

FOLDER holds the four IDX files of MNIST as its authors distribute them (gzipped or not): ``train-images-idx3-ubyte``,
``train-labels-idx1-ubyte``, ``t10k-images-idx3-ubyte``, ``t10k-labels-idx1-ubyte``. The cut is a function of the files
alone: within each class the examples are drawn by a fixed seed, in proportion to the class, and kept in file order.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import sys
import zipfile
from pathlib import Path

import numpy as np

SIZES = {"train": ("train", 7000), "test": ("t10k", 2000)}
SEED = 20250523


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


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write a compressed npz whose bytes depend on the arrays alone (no time stamps)."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            archive.writestr(info, buffer.getvalue(), zipfile.ZIP_DEFLATED, 9)


def main(folder: Path) -> None:
    rng = np.random.default_rng(SEED)
    arrays: dict[str, np.ndarray] = {}
    for split, (prefix, size) in SIZES.items():
        images = read_idx(folder, f"{prefix}-images-idx3-ubyte")
        labels = read_idx(folder, f"{prefix}-labels-idx1-ubyte")
        keep = stratified(labels, size, rng)
        arrays[f"{split}_images"] = images[keep]
        arrays[f"{split}_labels"] = labels[keep]
        arrays[f"{split}_source_index"] = keep.astype(np.uint16)
    here = Path(__file__).parent
    write_npz(here / "mnist.npz", arrays)
    digest = hashlib.sha256((here / "mnist.npz").read_bytes()).hexdigest()
    checksums = here / "checksums.json"
    known = json.loads(checksums.read_text()) if checksums.exists() else {}
    checksums.write_text(json.dumps(known | {"mnist.npz": digest}, indent=2, sort_keys=True) + "\n")
    print(f"mnist.npz  {(here / 'mnist.npz').stat().st_size} bytes  sha256 {digest}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
