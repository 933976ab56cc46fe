"""From stored artifacts to sources of scores, memory-mapped and kept for the life of the process."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch

from tda_backend.spectral.contraction import ScoreMatrix, Source
from tda_backend.spectral.coordinates import Spectrum
from tda_backend.store.artifacts import ArtifactStore, ArtifactWriter

MAX_CACHED = 64
_cache: OrderedDict[tuple, Source] = OrderedDict()
_lock = threading.Lock()


def write_spectrum(writer: ArtifactWriter, spectrum: Spectrum) -> None:
    """Store a spectrum as arrays that can be memory-mapped."""
    writer.array("eigenvalues", spectrum.eigenvalues)
    for name in ("train", "query", "validation"):
        writer.array(name, getattr(spectrum, name))
    if spectrum.train_weights is not None:
        writer.array("train_weights", spectrum.train_weights)
    writer.facts["num_cut"] = int(spectrum.num_cut)


def read_spectrum(store: ArtifactStore, key: str) -> Spectrum:
    """Return a stored spectrum; its coordinates are memory-mapped."""
    artifact = store.open(key)
    arrays = {name: torch.from_numpy(values) for name, values in artifact.arrays().items()}
    return Spectrum(
        eigenvalues=arrays["eigenvalues"],
        train=arrays["train"],
        query=arrays["query"],
        validation=arrays["validation"],
        train_weights=arrays.get("train_weights"),
        num_cut=int(artifact.manifest["num_cut"]),
    )


def read_source(store: ArtifactStore, kind: str, keys: Sequence[str]) -> Source:
    """Return the ensemble of the given artifacts: a spectrum per training seed, or the mean of their score matrices."""
    if kind == "spectrum":
        return [read_spectrum(store, key) for key in keys]
    matrices = [torch.from_numpy(store.open(key).array("scores")) for key in keys]
    return ScoreMatrix(matrices[0] if len(matrices) == 1 else torch.stack(matrices).mean(0))


def cached_source(store: ArtifactStore, kind: str, keys: Sequence[str]) -> Source:
    """Return :func:`read_source`, remembered in this process (maps cost address space, not memory)."""
    identity = (str(store.folder), kind, *keys)
    with _lock:
        if identity in _cache:
            _cache.move_to_end(identity)
            return _cache[identity]
    source = read_source(store, kind, keys)
    with _lock:
        _cache[identity] = source
        while len(_cache) > MAX_CACHED:
            _cache.popitem(last=False)
    return source


def read_outputs(store: ArtifactStore, keys: Sequence[str], indices: np.ndarray | Sequence[int]) -> np.ndarray:
    """Return retrained models' goodness ``[S, m]`` at test ``indices``, averaged over repeats."""
    columns = np.asarray(indices, dtype=np.int64)
    parts = [store.open(key).array("outputs")[:, :, columns].mean(axis=1, dtype=np.float64) for key in keys]
    return np.concatenate(parts).astype(np.float32)


def read_masks(store: ArtifactStore, keys: Sequence[str]) -> np.ndarray:
    """Return which training positions each retrained subset holds, bool ``[S, n]``."""
    return np.concatenate([store.open(key).array("masks") for key in keys])
