"""What the scores of each configuration cost."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from tda_backend.errors import ArtifactError
from tda_backend.interfaces.reading.reader import StudyReader
from tda_backend.studies.steps.table import KINDS
from tda_backend.studies.store import repository
from tda_backend.studies.store.artifact import Artifact
from tda_backend.studies.store.artifacts import ArtifactStore


def configuration_costs(study: StudyReader) -> pd.DataFrame:
    """Return what the scores of each configuration cost: configuration_id, seconds.

    The sum over the steps behind its coordinates or score matrix, those that it shares with others counted in full;
    training the attributed model, the retraining for LDS, and the evaluation are no method's own.
    """
    store = ArtifactStore(study.workspace.artifacts, study.workspace.read_only)
    rows = repository.query(
        study.workspace, "SELECT configuration_id, artifact FROM spectra WHERE study_id = ?", [study.study_id]
    )
    by_configuration: dict[str, list[str]] = {}
    for configuration_id, artifact in rows.itertuples(index=False, name=None):
        by_configuration.setdefault(str(configuration_id), []).append(str(artifact))
    opened: dict[str, Artifact] = {}
    seconds = [sum(each.seconds for each in _behind(store, keys, opened)) for keys in by_configuration.values()]
    return pd.DataFrame({"configuration_id": list(by_configuration), "seconds": seconds})


def _behind(store: ArtifactStore, keys: Sequence[str], opened: dict[str, Artifact]) -> list[Artifact]:
    """Return artifacts and what they were made from, each once, without the shared steps."""
    found: dict[str, Artifact] = {}
    waiting = list(keys)
    while waiting:
        key = waiting.pop()
        if key in found:
            continue
        if key not in opened:
            try:
                opened[key] = store.open(key)
            except ArtifactError:
                continue  # removed to save space: its cost is not known any more
        artifact = opened[key]
        kind = KINDS.get(artifact.step)
        if kind is None or not kind.IS_SHARED:
            found[key] = artifact
            waiting.extend(artifact.inputs)
    return list(found.values())
