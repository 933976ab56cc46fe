"""What a study, computed here or shipped, holds about the configurations that a paper's claim names.

Everything is read from small tables; nothing is computed again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tda_backend.errors import UsageError, command
from tda_backend.interfaces.papers.shipped import shipped_results
from tda_backend.interfaces.papers.verdicts import SHIPPED, PaperClaim
from tda_backend.interfaces.reading.records.base import Kind, records
from tda_backend.interfaces.reading.records.evidence import (
    ComparedConfiguration,
    ComparedIndicator,
    ComparedLds,
    ComparedSelection,
)
from tda_backend.interfaces.reading.records.removals import Removal
from tda_backend.interfaces.reading.study import open_study
from tda_backend.interfaces.reading.withdrawn import read_comparisons
from tda_backend.numerics.evaluation.claims import Comparison
from tda_backend.studies.contract.claim import NOT_RUN
from tda_backend.studies.store import repository
from tda_backend.studies.store.workspace import Workspace

Compared = TypeVar("Compared", ComparedConfiguration, ComparedIndicator, ComparedLds, ComparedSelection)


@dataclass(frozen=True)
class ClaimEvidence:
    """What is known about one claim.

    Attributes:
        rule: The claim as the study has it: ``check`` and, by kind, ``left``, ``right``, ``methods``, ``bound``.
        alphas: Subset shares of the study; the first one is meant where a selector names none.
        configurations: Of the claim, the left side first.
        lds: Their LDS at every λ and α.
        selections: Their λ*, by α.
        indicator: Their ξ̄ at every λ.
        removals: Of the whole study.
    """

    rule: Mapping[str, Any]
    alphas: tuple[float, ...]
    configurations: list[ComparedConfiguration]
    lds: list[ComparedLds]
    selections: list[ComparedSelection]
    indicator: list[ComparedIndicator]
    removals: list[Removal]

    def curve(self, configuration_id: str, alpha: float) -> list[ComparedLds]:
        """Return LDS(λ) of one configuration at one α."""
        return [
            point
            for point in self.lds
            if point.configuration_id == configuration_id and math.isclose(point.alpha, alpha, rel_tol=1e-5)
        ]

    def selection(self, configuration_id: str, alpha: float) -> ComparedSelection | None:
        """Return λ* of one configuration at one α with its baselines."""
        mine = (row for row in self.selections if row.configuration_id == configuration_id)
        return next((row for row in mine if math.isclose(row.alpha, alpha, rel_tol=1e-5)), None)


def comparisons_of(claim: PaperClaim) -> list[Comparison]:
    """Return the comparisons behind a verdict."""
    return read_comparisons(claim.comparisons)


def claim_evidence(claim: PaperClaim, db: str | Path | Workspace | None = None) -> ClaimEvidence:
    """Return what the figures of a claim are drawn from.

    Args:
        claim: One that was run.
        db: Catalogue, where the claim was computed here.

    Raises:
        UsageError: The claim was not run.
    """
    if claim.origin == NOT_RUN:
        raise UsageError(f"Study {claim.study} was not run.", f"{command('run', claim.study)}")
    source = shipped_results(claim.study) if claim.origin == SHIPPED else _Computed(claim.study, db)
    stated = [rule for rule in source.config.get("claims", []) if rule["id"] == claim.claim_id]
    order = {identity: number for number, identity in enumerate(claim.configuration_ids)}

    def own(table: str, kind: type[Compared]) -> list[Compared]:
        rows = [row for row in source.read(table, kind) if row.configuration_id in order]
        return sorted(rows, key=lambda row: order[row.configuration_id])

    return ClaimEvidence(
        rule=stated[0] if stated else {"check": claim.check_name},
        alphas=tuple(float(alpha) for alpha in source.config["ground_truth"]["alphas"]),
        configurations=own("configurations", ComparedConfiguration),
        lds=own("lds", ComparedLds),
        selections=own("selections", ComparedSelection),
        indicator=own("indicator", ComparedIndicator),
        removals=source.read("removals", Removal),
    )


class _Computed:
    """A study of the catalogue, read table by table as shipped results are."""

    def __init__(self, name: str, db: str | Path | Workspace | None) -> None:
        self._study = open_study(name, db)
        self.config = self._study.config

    def read(self, table: str, kind: type[Kind]) -> list[Kind]:
        sql = f"SELECT * FROM {table} WHERE study_id = ?"
        return records(repository.query(self._study.workspace, sql, [self._study.study_id]), kind)
