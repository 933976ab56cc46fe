"""Rows about the papers' claims."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Verdict:
    """A claim of a paper as one study judged it: a row of ``verdicts``.

    Attributes:
        claim_id: Key within the study.
        paper: Key of the paper.
        place: Figure or section.
        statement: What the paper states.
        check_name: Kind of claim.
        verdict: ``reproduced``, ``not reproduced``, ``inconclusive``, ``not tested as stated`` or ``not run``.
        value: The comparison nearest to its bound.
        low: 95 %.
        high: Likewise.
        bound: What it must pass.
        numbers: Every comparison in words.
        comparisons: The same as JSON.
        note: What a reader must know.
        configuration_ids: What was compared, the left side first.
        num_subsets: Retrained subsets behind it.
    """

    claim_id: str
    paper: str
    place: str
    statement: str
    check_name: str
    verdict: str
    value: float | None
    low: float | None
    high: float | None
    bound: float | None
    numbers: Any
    comparisons: str | None
    note: str | None
    configuration_ids: Any
    num_subsets: int | None
