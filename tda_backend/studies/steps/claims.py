"""The step that says which of a study's claims hold: from stored evaluations to verdicts."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from tda_backend.errors import StudyError
from tda_backend.numerics.evaluation.claims import Comparison, decisive, overall
from tda_backend.studies.config.trajectory import LookAhead, Unrolling
from tda_backend.studies.contract.choosing import RANDOM
from tda_backend.studies.contract.claim import NOT_RUN, Claim, Needs, removal_name
from tda_backend.studies.pipeline.context import RunContext
from tda_backend.studies.pipeline.planning import Planned, Planning
from tda_backend.studies.pipeline.step import Cost, Step
from tda_backend.studies.steps.compare_unrolled import SummarizeRuns
from tda_backend.studies.steps.evidence import ReadsEvidence, StoredEvidence
from tda_backend.studies.steps.lookahead import SelectExamples
from tda_backend.studies.steps.removal import RemovalCurve
from tda_backend.studies.steps.train import Retrain
from tda_backend.studies.store.artifacts import ArtifactWriter
from tda_backend.studies.store.tables.rules import VERDICTS


@dataclass(frozen=True, kw_only=True)
class Claims(ReadsEvidence):
    """Whether the study's claims hold.

    Attributes:
        claims: What papers say.
    """

    NAME: ClassVar[str] = "claims"
    VERSION: ClassVar[int] = 4
    TABLES = (VERDICTS,)

    claims: Sequence[Claim]

    def context(self) -> dict[str, Any]:
        """Return the configurations, and that a result replaces all verdicts of the study."""
        rows = [each.to_json() for each in self.configurations]
        return {**super().context(), "rows": rows, "replaces": {VERDICTS.name: {}}}

    def run(self, context: RunContext, writer: ArtifactWriter) -> None:
        """Compare every claim with the study's figures and store the verdicts."""
        evidence = StoredEvidence(context, self)
        writer.table("verdicts", VERDICTS.rows(self._verdict(claim, evidence) for claim in self.claims))

    def _verdict(self, claim: Claim, evidence: StoredEvidence) -> dict[str, Any]:
        needed = claim.needs(self.configurations)
        reason = next((self.missing[role] for role in needed.roles if role in self.missing), None)
        stated = {
            "claim_id": claim.id,
            "paper": claim.paper,
            "place": claim.place,
            "statement": claim.statement,
            "check_name": claim.check,
            "num_subsets": self.num_subsets,
            "configuration_ids": list(dict.fromkeys(each.configuration_id for each in needed.evaluated)),
        }
        if reason is not None:
            return {**stated, **_not_run(claim, reason)}
        comparisons = claim.compare(evidence)
        shown = decisive(comparisons)
        return {
            **stated,
            "verdict": overall(comparisons),
            "value": shown.value,
            "low": shown.low,
            "high": shown.high,
            "bound": shown.bound,
            "numbers": [each.sentence for each in comparisons],
            "comparisons": json.dumps([_entry(each) for each in comparisons]),
            "note": claim.note or "",
        }


def _not_run(claim: Claim, reason: str) -> dict[str, Any]:
    """Return the verdict on a claim that needs what could not be computed."""
    return {"verdict": NOT_RUN, "bound": claim.bound, "numbers": [], "comparisons": "[]", "note": reason}


def _entry(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison with NaN as null, as JSON has it."""
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in asdict(comparison).items()
    }


@dataclass(frozen=True)
class Made:
    """What a plan has when its claims are added.

    Attributes:
        configurations: Of the study, with their steps.
        chunks: α → its retrained subsets.
        removals: Curves of subset removal.
        trajectory: Summaries of unrolled runs, by learning rate.
        lookahead: Runs with selection.
    """

    configurations: Sequence[Planned]
    chunks: Mapping[float, Sequence[Retrain]]
    removals: Sequence[RemovalCurve] = ()
    trajectory: Sequence[SummarizeRuns] = ()
    lookahead: Sequence[SelectExamples] = ()


def plan_claims(planning: Planning, made: Made) -> Claims | None:
    """Add the step that compares a study's claims with its figures, if there are some; it reads only what they name.

    Raises:
        StudyError: A claim names what the study does not have.
    """
    study = planning.study
    claims = [Claim.from_json(each) for each in study.claims or ()]
    if not claims:
        return None
    rows = [each.configuration for each in made.configurations]
    planned = {each.configuration.configuration_id: each for each in made.configurations}
    rates = [each.learning_rate for each in made.trajectory]
    for claim in claims:
        claim.kind.check_against(claim, study, rows, rates)
    needed = [claim.needs(rows) for claim in claims]
    evaluated = {each.configuration_id: each for needs in needed for each in needs.evaluated}
    apart = {each.configuration_id for needs in needed for each in needs.apart}
    sections = {needs.section for needs in needed}
    return planning.steps.add(
        Claims(
            claims=claims,
            alphas=list(made.chunks),
            num_subsets=study.ground_truth.subsets,
            bootstrap=study.evaluation.bootstrap,
            seed=study.seed,
            sizes=[] if study.removal is None else list(study.removal.sizes),
            examples=planning.examples,
            evaluations={name: planned[name].evaluation for name in evaluated},
            sources={name: planned[name].sources for name in planned if name in apart},
            retrained={alpha: tuple(steps) for alpha, steps in made.chunks.items()} if apart else {},
            removals=_removals(zip(claims, needed, strict=True), made),
            trajectory=tuple(made.trajectory) if Unrolling.NAME in sections else None,
            lookahead=tuple(made.lookahead) if LookAhead.NAME in sections else None,
            configurations=list(evaluated.values()),
            label="compare with the papers' claims",
            cost=Cost(2.0),
        )
    )


def _removals(claims: Iterable[tuple[Claim, Needs]], made: Made) -> dict[str, tuple[Step, Step]]:
    """Return the removals that some claims read, by name."""
    named = [(RANDOM if each.selector is None else each.selector, each) for each in made.removals]
    by_name = {removal_name(selector): (each.order, each.last) for selector, each in named}
    found: dict[str, tuple[Step, Step]] = {}
    for claim, needs in claims:
        for selector in needs.removals:
            name = removal_name(selector)
            if name not in by_name:
                there = "; ".join(str(known) for known, _ in named)
                raise StudyError(
                    f"Claim {claim.id} compares subset removal by {selector}, which the study does not do.",
                    f"[removal] of has: {there or 'nothing'}.",
                )
            found[name] = by_name[name]
    return found
