"""Rows about retraining without the examples that helped most."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Removal:
    """One query after retraining without some examples, mean over seeds: a row of ``removals``.

    Attributes:
        configuration_id: Who said what helps; ``None``: random examples of the query's class.
        label: Configuration and λ in words; one curve each.
        regularization: λ, or ``None``.
        query: Position.
        size: How many examples were removed; 0: none.
        available: Examples that could be removed.
        num_seeds: Retrained models behind the means.
        mean_correct: Share of them that predict the query right; ``None`` without classes.
        mean_goodness: Mean goodness.
        flipped: Fewer than half of them predict it right.
    """

    configuration_id: str | None
    label: str
    regularization: float | None
    query: int
    size: int
    available: int
    num_seeds: int
    mean_correct: float | None
    mean_goodness: float
    flipped: bool


@dataclass(frozen=True)
class RemovalPoint:
    """Share of flipped queries at one size, with its 95 % interval over queries, and the area of the whole curve."""

    configuration_id: str | None
    label: str
    regularization: float | None
    size: int
    fraction: float
    ci_low: float
    ci_high: float
    area: float
    area_low: float
    area_high: float
    num_queries: int
    num_unfinished: int


@dataclass(frozen=True)
class QueryBrittleness:
    """How many removed examples flip one query.

    Attributes:
        configuration_id: Who chose them; ``None``: random.
        label: Configuration and λ in words.
        regularization: λ, or ``None``.
        query: Position.
        flips_at: Smallest size that flipped it; ``None``: nothing tried flips it.
        holds_at: Largest size below that known not to.
        available: Examples that could be removed.
        base_goodness: Goodness of models trained on everything.
        done: Nothing is left to try.
    """

    configuration_id: str | None
    label: str
    regularization: float | None
    query: int
    flips_at: int | None
    holds_at: int
    available: int
    base_goodness: float
    done: bool
