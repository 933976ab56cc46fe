"""From stored artifacts to sources of scores, memory-mapped and kept for the life of the process."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch

from tda_backend.methods import method, spectral_filter
from tda_backend.spectral.contraction import ScoreMatrix, Source
from tda_backend.spectral.coordinates import Block, Spectrum
from tda_backend.spectral.filters import DampedInverse, SpectralFilter
from tda_backend.spectral.kronecker import KroneckerSpectrum
from tda_backend.store.artifacts import ArtifactStore, ArtifactWriter

MAX_CACHED = 64
_cache: OrderedDict[tuple, Source] = OrderedDict()
_lock = threading.Lock()


SPECTRAL_STEPS = ("spectrum", "curvature")
FilterOf: TypeAlias = Callable[[int, int], SpectralFilter]
"""(eigenvalues left out, eigenvalues in all) → φ of a configuration."""


def write_spectrum(writer: ArtifactWriter, spectrum: Spectrum) -> None:
    """Store a spectrum as arrays that can be memory-mapped; its filter is the configuration's, not stored."""
    writer.array("eigenvalues", spectrum.eigenvalues)
    for name in ("train", "query", "validation"):
        writer.array(name, getattr(spectrum, name))
    for name in ("train_weights", "query_outside"):
        values = getattr(spectrum, name)
        if values is not None:
            writer.array(name, values)
    writer.facts["num_cut"] = int(spectrum.num_cut)
    writer.facts["blocks"] = [[block.name, block.size, block.scale] for block in spectrum.blocks]


def read_spectrum(store: ArtifactStore, key: str, filter_of: FilterOf | None = None) -> Spectrum:
    """Return a stored spectrum with a filter (default: the damped inverse); its coordinates are memory-mapped."""
    artifact = store.open(key)
    arrays = {name: torch.from_numpy(values) for name, values in artifact.arrays().items()}
    num_cut = int(artifact.manifest["num_cut"])
    blocks = artifact.manifest.get("blocks", [])
    return Spectrum(
        eigenvalues=arrays["eigenvalues"],
        train=arrays["train"],
        query=arrays["query"],
        validation=arrays["validation"],
        train_weights=arrays.get("train_weights"),
        num_cut=num_cut,
        filter=DampedInverse() if filter_of is None else filter_of(num_cut, num_cut + len(arrays["eigenvalues"])),
        query_outside=arrays.get("query_outside"),
        blocks=tuple(Block(str(name), int(size), float(scale)) for name, size, scale in blocks),
    )


def write_kronecker(writer: ArtifactWriter, spectrum: KroneckerSpectrum) -> None:
    """Store a Kronecker spectrum; its factors are memory-mapped when read."""
    for name, values in spectrum.to_arrays().items():
        writer.array(name, values)
    writer.array("eigenvalues", spectrum.eigenvalues)
    writer.facts["num_cut"] = int(spectrum.num_cut)


def read_source(store: ArtifactStore, kind: str, keys: Sequence[str], filter_of: FilterOf | None = None) -> Source:
    """Return the ensemble of the given artifacts.

    Args:
        store: Where they lie.
        kind: Name of the step that made them.
        keys: One artifact per training seed.
        filter_of: φ of the configuration, for coordinates.

    Returns:
        Coordinates per training seed, or the mean of the score matrices.
    """
    if kind in SPECTRAL_STEPS:
        return [read_spectrum(store, key, filter_of) for key in keys]
    if kind == "kronecker":
        return [KroneckerSpectrum.from_arrays(store.open(key).arrays()) for key in keys]
    matrices = score_matrices(store, keys)
    return matrices[0] if len(matrices) == 1 else ScoreMatrix(torch.stack([m.values for m in matrices]).mean(0))


def read_configuration(store: ArtifactStore, row: Mapping[str, Any], keys: Sequence[str]) -> Source:
    """Return the source of one configuration (``method``, ``parameters``) from some of its artifacts."""
    filter_of = partial(spectral_filter, method(row["method"]), row["parameters"])
    return read_source(store, store.open(keys[0]).step, keys, filter_of)


def score_matrices(store: ArtifactStore, keys: Sequence[str]) -> list[ScoreMatrix]:
    """Return the stored score matrix of each training seed, memory-mapped."""
    return [ScoreMatrix(torch.from_numpy(store.open(key).array("scores"))) for key in keys]


def cached_source(
    store: ArtifactStore, kind: str, keys: Sequence[str], filter_of: FilterOf | None = None, name: str = ""
) -> Source:
    """Return :func:`read_source`, remembered in this process under the filter's name and the keys.

    Maps cost address space, not memory.
    """
    identity = (str(store.folder), kind, name, *keys)
    with _lock:
        if identity in _cache:
            _cache.move_to_end(identity)
            return _cache[identity]
    source = read_source(store, kind, keys, filter_of)
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
