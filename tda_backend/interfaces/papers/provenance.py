"""How the numbers of a study were computed, or would be: what a page says of their origin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tda_backend.interfaces.papers.shipped import shipped_results
from tda_backend.interfaces.papers.verdicts import COMPUTED, SHIPPED, paper_studies
from tda_backend.interfaces.reading.records.studies import facts_of
from tda_backend.interfaces.reading.study import open_study
from tda_backend.studies.config.study import Study
from tda_backend.studies.contract.claim import NOT_RUN
from tda_backend.studies.store import repository
from tda_backend.studies.store.workspace import Workspace
from tda_backend.studies.study.file import resolve


@dataclass(frozen=True)
class Provenance:
    """Origin and size of a study; ``None`` where unknown.

    Attributes:
        study: Its name.
        origin: ``computed here``, ``shipped result`` or ``not run``.
        task: What is attributed.
        num_train: Training examples; sizes are those of the results, of the study file where nothing was run.
        num_queries: Queries.
        num_subsets: Retrained subsets at each α; of a study that was not run, at most.
        num_seeds: Training seeds.
        alphas: Shares of the training set in a subset.
        version: Of the program that computed shipped results.
        created: When they were computed.
        torch: With which torch.
        device: On which device.
        seconds: How long it took.
    """

    study: str
    origin: str
    task: str
    num_train: int
    num_queries: int
    num_subsets: int
    num_seeds: int
    alphas: tuple[float, ...]
    version: str | None = None
    created: str | None = None
    torch: str | None = None
    device: str | None = None
    seconds: float | None = None

    @property
    def is_run(self) -> bool:
        """Whether there are results."""
        return self.origin != NOT_RUN


def provenance_of(name: str, origin: str, db: str | Path | Workspace | None = None) -> Provenance:
    """Return how a study of claims was computed, or would be."""
    if origin == SHIPPED:
        results = shipped_results(name)
        made = results.origin
        return replace(
            _planned(name, origin, Study.from_json(results.config)),
            num_subsets=_retrained(results.facts["info"]),
            version=made.version,
            created=made.created,
            torch=made.torch,
            device=made.device,
            seconds=made.seconds,
        )
    if origin != COMPUTED:
        return _planned(name, origin, resolve(paper_studies()[name]))
    study = open_study(name, db)
    known = repository.studies(study.workspace).set_index("study_id").created
    return replace(
        _planned(name, origin, Study.from_json(study.config)),
        num_subsets=_retrained(study.info),
        torch=study.info.get("torch"),
        device=study.info.get("device"),
        created=f"{known[study.study_id]:%Y-%m-%d %H:%M}" if study.study_id in known.index else None,
        seconds=float(study.timings().seconds.sum()),
    )


def _retrained(info: Mapping[str, Any]) -> int:
    """Return how many subsets a study has retrained, which its file need not say."""
    return facts_of(info).num_subsets


def _planned(name: str, origin: str, study: Study) -> Provenance:
    data, truth = study.data, study.ground_truth
    return Provenance(
        study=name,
        origin=origin,
        task=study.task,
        num_train=data.train,
        num_queries=data.queries,
        num_subsets=truth.subsets,
        num_seeds=study.training.seeds,
        alphas=tuple(float(alpha) for alpha in truth.alphas),
    )
