"""Every claim of the papers that a study tests, with the best evidence there is: computed here, shipped, or not run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd

from tda_backend.interfaces.papers.shipped import shipped_names, shipped_results
from tda_backend.interfaces.reading.records.base import records
from tda_backend.interfaces.reading.records.verdicts import Verdict
from tda_backend.interfaces.reading.study import open_study
from tda_backend.interfaces.reading.withdrawn import withdrawn
from tda_backend.studies.contract.claim import NOT_RUN, NOT_TESTED, PAPERS
from tda_backend.studies.store import repository
from tda_backend.studies.store.workspace import Workspace
from tda_backend.studies.study.file import embedded_studies, read_study_file, resolve

COMPUTED, SHIPPED = "computed here", "shipped result"


@dataclass(frozen=True)
class PaperClaim:
    """What a paper states, and the best evidence that there is about it.

    Attributes:
        study: Study that tests it.
        claim_id: Key within the study.
        paper: Key of the paper.
        place: Figure or section.
        statement: What the paper states.
        verdict: ``reproduced``, ``not reproduced``, ``inconclusive``, ``not tested as stated`` or ``not run``.
        value: The comparison nearest to its bound; ``None`` where nothing was run, as all other numbers.
        low: 95 %.
        high: Likewise.
        bound: What it must pass.
        numbers: Every comparison in words.
        comparisons: The same as JSON.
        note: What a reader must know; of a claim that is not tested as stated, why.
        check_name: Kind of claim.
        configuration_ids: What was compared, the left side first.
        num_subsets: Retrained subsets behind it.
        origin: ``computed here`` (in this catalogue), ``shipped result`` or ``not run``.
        task: Of the study.
        version: Of the program that computed a shipped result.
        created: When it was computed.
    """

    study: str
    claim_id: str
    paper: str
    place: str
    statement: str
    verdict: str
    value: float | None
    low: float | None
    high: float | None
    bound: float | None
    numbers: list[str]
    comparisons: str | None
    note: str | None
    check_name: str
    configuration_ids: list[str]
    num_subsets: int | None
    origin: str
    task: str
    version: str | None
    created: str | None

    @property
    def key(self) -> str:
        """What an address calls it."""
        return f"{self.study}/{self.claim_id}"


COLUMNS = [field.name for field in fields(PaperClaim)]


@dataclass(frozen=True)
class _Found:
    """A verdict of one origin, and the claim as the study file stated it then."""

    verdict: Verdict
    stated: Mapping[str, Any] | None
    origin: str
    version: str | None = None
    created: str | None = None


def paper_studies() -> dict[str, dict[str, Any]]:
    """Return the embedded studies that test claims, by name: the content of their files."""
    contents = {name: read_study_file(path) for name, path in embedded_studies().items()}
    return {name: content for name, content in contents.items() if content.get("claims")}


def paper_claims(db: str | Path | Workspace | None = None) -> pd.DataFrame:
    """Return :func:`claims_of_papers` as a table with the columns ``COLUMNS``, for notebooks and the command line."""
    return pd.DataFrame([asdict(claim) for claim in claims_of_papers(db)], columns=COLUMNS)


def claims_of_papers(db: str | Path | Workspace | None = None) -> list[PaperClaim]:
    """Return every claim of the embedded studies, by paper, then by study, in the order of the study files."""
    workspace = Workspace.at(db)
    known = set(repository.studies(workspace).name) if workspace.catalogue.exists() else set()
    shipped = set(shipped_names())
    claims: list[PaperClaim] = []
    back = withdrawn()
    for name, content in paper_studies().items():
        wanted = _stated(resolve(content).to_json())
        computed = _computed(workspace, name) if name in known else {}
        carried = _shipped(name) if name in shipped else {}
        for claim_id, stated in _stated(content).items():
            if back.is_dropped(name, claim_id):
                continue
            found = _best(computed.get(claim_id), carried.get(claim_id))
            if found is not None and found.stated != wanted[claim_id]:
                found = None  # the claim has changed since: its old verdict says nothing about it
            claim, reason = _claim(name, content["task"], stated, found), back.reason(name, claim_id)
            claims.append(claim if reason is None else replace(claim, verdict=NOT_TESTED, note=reason))
    order = list(PAPERS)
    return sorted(claims, key=lambda claim: (order.index(claim.paper), claim.study))


def _best(computed: _Found | None, carried: _Found | None) -> _Found | None:
    """Return what was computed here, else what was shipped.

    A claim that could not be judged here, because something that it needs could not be computed, counts as not run;
    its note says what.
    """
    if computed is not None and computed.verdict.verdict == NOT_RUN:
        return carried or replace(computed, origin=NOT_RUN)
    return computed or carried


def _claim(study: str, task: str, stated: Mapping[str, Any], found: _Found | None) -> PaperClaim:
    said = None if found is None else found.verdict
    return PaperClaim(
        study=study,
        claim_id=stated["id"],
        paper=stated["paper"],
        place=stated["place"],
        statement=stated["statement"],
        verdict=NOT_RUN if said is None else said.verdict,
        value=None if said is None else said.value,
        low=None if said is None else said.low,
        high=None if said is None else said.high,
        bound=None if said is None else said.bound,
        numbers=[] if said is None else list(said.numbers),
        comparisons=None if said is None else said.comparisons,
        note=stated.get("note", "") if said is None else said.note,
        check_name=stated["check"] if said is None else said.check_name,
        configuration_ids=[] if said is None else list(said.configuration_ids),
        num_subsets=None if said is None else said.num_subsets,
        origin=NOT_RUN if found is None else found.origin,
        task=task,
        version=None if found is None else found.version,
        created=None if found is None else found.created,
    )


def _computed(workspace: Workspace, name: str) -> dict[str, _Found]:
    study = open_study(name, workspace)
    stated = _stated(study.config)
    return {row.claim_id: _Found(row, stated.get(row.claim_id), COMPUTED) for row in records(study.verdicts(), Verdict)}


def _shipped(name: str) -> dict[str, _Found]:
    results = shipped_results(name)
    stated, made = _stated(results.config), results.origin
    return {
        row.claim_id: _Found(row, stated.get(row.claim_id), SHIPPED, made.version, made.created)
        for row in results.read("verdicts", Verdict)
    }


def _stated(config: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the claims of a study file by id."""
    return {claim["id"]: claim for claim in config.get("claims", [])}
