"""What the dashboard asks beside stored rows: scores of a payload, costs by configuration, drafts of studies."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from tda_backend.errors import ArtifactError, StudyError
from tda_backend.runs.plan import Plan, build_plan
from tda_backend.runs.quick import quick
from tda_backend.runs.study import resolve
from tda_backend.runs.study_reader import StudyReader
from tda_backend.spectral.contraction import ScoreMatrix, admissible, block_scores, self_influence
from tda_backend.spectral.coordinates import Block
from tda_backend.spectral.filters import damped_inverse
from tda_backend.spectral.solver_filters import Krylov, LissaMean, StrictDampedInverse
from tda_backend.store import repository
from tda_backend.store.artifacts import ArtifactStore
from tda_backend.training.registry import BUILT_IN, load_task

SHARED_STEPS = ("examples", "train", "retrain")
"""Steps that every method of a study needs, or none: no method's own cost."""


def payload_scores(payload: Mapping[str, Any], regularization: float) -> np.ndarray:
    """Return the candidates' scores at one λ from :meth:`StudyReader.explorer_payload`, as a browser computes them.

    Args:
        payload: The explorer's payload.
        regularization: λ ≥ 0.

    Returns:
        ``[c]`` float32; positive helps.

    Raises:
        NumericalError: The method's filter has no value at this λ (LiSSA diverges, a singular curvature at λ = 0).
    """
    sigma = torch.from_numpy(np.asarray(payload["eigenvalues"])).double()
    name, parameters = payload["filter"], payload["parameters"]
    if name == "identity":
        weights = torch.ones_like(sigma)
    elif name == "krylov":
        weights = _krylov(sigma, payload, regularization)
    elif name == "lissa_mean":
        weights = LissaMean(**parameters).weights(sigma, regularization, payload["num_train"])
    elif parameters.get("refuses_zero"):
        strict = StrictDampedInverse(num_cut=1, num_eigenvalues=len(sigma) + 1)
        weights = strict.weights(sigma, regularization, payload["num_train"])
    else:
        # No coordinate lies at or below the cutoff, so at λ = 0 each one counts.
        weights = damped_inverse(sigma, regularization, 0)
    return payload["products"] @ weights.numpy().astype(np.float32)


def _krylov(sigma: torch.Tensor, payload: Mapping[str, Any], regularization: float) -> torch.Tensor:
    """Return φ of each training seed's coordinates, one seed after the other."""
    coordinates = torch.from_numpy(np.asarray(payload["coordinates"], dtype=np.float64))
    parts = [
        Krylov(**payload["parameters"]).weights(
            values, regularization, payload["num_train"], vector[None], torch.tensor([outside], dtype=torch.float64)
        )[0]
        for values, vector, outside in zip(
            sigma.split(payload["parts"]), coordinates.split(payload["parts"]), payload["outside"], strict=True
        )
    ]
    return torch.cat(parts)


def blocks(study: StudyReader, configuration_id: str) -> tuple[Block, ...]:
    """Return the layers of a configuration's coordinates (first training seed); none where they mix all layers."""
    source = study.source(configuration_id)
    return () if isinstance(source, ScoreMatrix) else tuple(block for block in source[0].blocks if block.name)


def num_sources(study: StudyReader, configuration_id: str) -> int:
    """Return over how many training seeds (or models of an ensemble) a configuration is averaged."""
    return len(repository.sources(study.workspace, study.study_id, configuration_id))


def admissible_regularizations(
    study: StudyReader, configuration_id: str, regularizations: Sequence[float], query: int
) -> list[float]:
    """Return those λ at which a configuration has scores of one query."""
    source = study.source(configuration_id)
    return [] if isinstance(source, ScoreMatrix) else admissible(source, regularizations, [query])


def self_influence_of(study: StudyReader, configuration_id: str, regularization: float) -> np.ndarray:
    """Return every training example's influence on its own loss at one λ, ``[n]``."""
    return self_influence(study.source(configuration_id), [regularization])[0].numpy()


def layer_scores_of(
    study: StudyReader, configuration_id: str, query: int, regularization: float
) -> dict[str, np.ndarray]:
    """Return one query's scores by layer at one λ, each ``[n]``; they sum to the scores."""
    return block_scores(study.source(configuration_id), regularization, query)


def configuration_costs(study: StudyReader) -> pd.DataFrame:
    """Return what the scores of each configuration cost: configuration_id, seconds.

    The sum over the steps behind its coordinates or score matrix, those that it shares with others counted in full;
    training the attributed model, the retraining for LDS, and the evaluation are no method's own.
    """
    store = ArtifactStore(study.workspace.artifacts)
    rows = repository.query(
        study.workspace, "SELECT configuration_id, artifact FROM spectra WHERE study_id = ?", [study.study_id]
    )
    manifests: dict[str, Mapping[str, Any]] = {}
    records = []
    for identity, group in rows.groupby("configuration_id", sort=False):
        needed = _behind(store, group["artifact"].tolist(), manifests)
        records.append(
            {
                "configuration_id": identity,
                "seconds": sum(float(manifest["seconds"]) for manifest in needed),
            }
        )
    return pd.DataFrame(records, columns=["configuration_id", "seconds"])


def _behind(
    store: ArtifactStore, keys: Sequence[str], manifests: dict[str, Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """Return the manifests of artifacts and of what they were made from, each once, without the shared steps."""
    found: dict[str, Mapping[str, Any]] = {}
    waiting = list(keys)
    while waiting:
        key = waiting.pop()
        if key in found:
            continue
        if key not in manifests:
            try:
                manifests[key] = store.open(key).manifest
            except ArtifactError:
                continue  # removed to save space: its cost is not known any more
        if manifests[key]["step"] in SHARED_STEPS:
            continue
        found[key] = manifests[key]
        waiting.extend(manifests[key].get("inputs", []))
    return list(found.values())


@dataclass(frozen=True)
class Draft:
    """A study that could be run.

    Attributes:
        study: The resolved study.
        num_configurations: How many there are.
        num_steps: How many steps compute them.
        seconds: Rough estimate of the time on a machine with two cores, nothing cached.
        slowest: The steps' names with their share of the seconds, largest first.
    """

    study: Mapping[str, Any]
    num_configurations: int
    num_steps: int
    seconds: float
    slowest: tuple[tuple[str, float], ...]


def built_in_tasks() -> list[str]:
    """Return the names of the tasks that come with the program."""
    return list(BUILT_IN)


def draft(toml: str, small: bool = False) -> Draft:
    """Return what running a study file would do, with its estimated cost.

    Args:
        toml: Text of a study file.
        small: Whether its quick version is meant.

    Raises:
        TDAError: The study cannot be run; the same error that ``tda run`` would give.
    """
    from tda_backend.runs.facts import task_facts

    try:
        content = tomllib.loads(toml)
    except tomllib.TOMLDecodeError as error:
        raise StudyError(f"The study is not valid TOML: {error}.", "Correct that place.") from error
    facts = task_facts(load_task(str(content.get("task", ""))), str(content.get("task", "")))
    study = resolve(quick(content, facts.num_parameters) if small else content)
    plan: Plan = build_plan(study, facts)
    by_name: dict[str, float] = {}
    for step in plan.steps:
        by_name[step.name] = by_name.get(step.name, 0.0) + step.weight
    return Draft(
        study,
        len(plan.record["configurations"]),
        len(plan.steps),
        sum(by_name.values()),
        tuple(sorted(by_name.items(), key=lambda item: -item[1])),
    )
