"""What all steps share whose results are sources of scores: coordinates over λ, or score matrices."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self, TypeAlias

import numpy as np

from tda_backend.numerics.spectral.contraction import ScoreMatrix, Source, on_device, scores
from tda_backend.numerics.spectral.filters.base import Filter
from tda_backend.studies.config.configuration import Scorer
from tda_backend.studies.contract.method import method
from tda_backend.studies.pipeline.context import RunContext
from tda_backend.studies.pipeline.step import Step, about
from tda_backend.studies.store.artifact import Artifact, stored_values
from tda_backend.studies.store.artifacts import ArtifactStore
from tda_backend.studies.store.drop import Drop
from tda_backend.studies.store.tables.models import SPECTRA
from tda_backend.studies.store.verification import is_unchanged

FilterOf: TypeAlias = Callable[[int, int], Filter]
"""(eigenvalues left out, eigenvalues in all) → φ of a configuration."""
LEFT_OUT = "left_out"
"""What an artifact says of the directions that a truncated spectrum lacks."""
MAX_CACHED = 64
COMPARED = (1.0, 1e-2, 1e-4)
"""λ at which scores are compared, in units of the largest eigenvalue."""
_cache: OrderedDict[tuple, Source] = OrderedDict()
_lock = threading.Lock()
_KINDS: dict[str, type[SourceStep]] = {}


@dataclass(frozen=True, kw_only=True)
class SourceStep(Step):
    """A step whose result is one training seed's part of some configurations' scores.

    Attributes:
        configurations: Ids of the configurations that it serves.
        seed_index: Which training seed, or model of an ensemble.
    """

    TABLES = (SPECTRA,)

    configurations: tuple[str, ...] = about((), ingested=True)
    seed_index: int = about(0, ingested=True)

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "NAME" in vars(cls):  # artifacts name the kind that made them
            _KINDS[cls.NAME] = cls

    def joined(self, other: Self) -> Self:
        """Return the step that serves the configurations of both."""
        return replace(self, configurations=tuple(dict.fromkeys([*self.configurations, *other.configurations])))

    @classmethod
    @abstractmethod
    def read(cls, store: ArtifactStore, keys: Sequence[str], filter_of: FilterOf | None = None) -> Source:
        """Return the source that some results make together, memory-mapped.

        Args:
            store: Where they lie.
            keys: One artifact per training seed.
            filter_of: φ of the configuration, for coordinates.
        """

    @classmethod
    def eigenvalues(cls, artifact: Artifact) -> np.ndarray:
        """Return the eigenvalues that a result has, descending by block."""
        return artifact.array("eigenvalues")

    @classmethod
    def results(cls, artifact: Artifact) -> dict[str, np.ndarray]:
        """Return eigenvalues and scores at some λ: directions have no sign, and may turn where eigenvalues agree."""
        store = ArtifactStore(artifact.folder.parents[1])
        source = cls.read(store, [artifact.key])
        if isinstance(source, ScoreMatrix):
            return stored_values(artifact)
        eigenvalues = cls.eigenvalues(artifact)
        largest = float(eigenvalues.max(initial=0.0)) or 1.0
        found = {f"scores at λ = {share:g} σ_max": scores(source, share * largest) for share in COMPARED}
        return {**found, "eigenvalues": eigenvalues}

    @classmethod
    def ingest(cls, drop: Drop) -> None:
        """Insert one row of ``spectra`` for every configuration."""
        values = cls.eigenvalues(drop.artifact).tolist()
        left = drop.artifact.fact(LEFT_OUT, {})
        row = {
            "kind": drop.artifact.step,
            "num_eigenvalues": len(values),
            "num_cut": int(drop.artifact.fact("num_cut", 0)),
            "trace_left_out": left.get("trace"),
            "largest_left_out": left.get("largest"),
            "eigenvalues": values,
        }
        drop.insert_records(SPECTRA, [{"configuration_id": each, **row} for each in drop.value("configurations")])


def read_source(store: ArtifactStore, kind: str, keys: Sequence[str], filter_of: FilterOf | None = None) -> Source:
    """Return the ensemble of some results of one kind of step: coordinates per training seed, or a score matrix."""
    return _KINDS[kind].read(store, keys, filter_of)


def read_configuration(context: RunContext, scorer: Scorer, steps: Sequence[Step]) -> Source:
    """Return the source of one configuration from some of its steps, on the run's device."""
    store = context.store
    filter_of = partial(method(scorer.method).filter, scorer.parameters)
    keys = [step.key for step in steps]
    return on_device(read_source(store, store.open(keys[0]).step, keys, filter_of), context.home)


def cached_source(
    store: ArtifactStore, kind: str, keys: Sequence[str], filter_of: FilterOf | None = None, name: str = ""
) -> Source:
    """Return :func:`read_source`, remembered in this process under the filter's name and the keys.

    Maps cost address space, not memory. What lies on the disk now must be what was verified when it was read.
    """
    identity = (str(store.folder), kind, name, *keys)
    is_same = all(is_unchanged(store.path(key)) for key in keys)
    with _lock:
        if identity in _cache and is_same:
            _cache.move_to_end(identity)
            return _cache[identity]
        _cache.pop(identity, None)
    source = read_source(store, kind, keys, filter_of)
    with _lock:
        _cache[identity] = source
        while len(_cache) > MAX_CACHED:
            _cache.popitem(last=False)
    return source
