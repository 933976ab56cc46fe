"""The step of a plan that compares a study's claims with its figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tda_backend.errors import StudyError
from tda_backend.runs.claim_rules import RANDOM, check_against_rows, rows_of, selectors_of
from tda_backend.runs.plan_sources import Adder
from tda_backend.runs.selectors import choose
from tda_backend.runs.trajectory_claim_rules import SECTIONS, TRAJECTORY_CHECKS, check_against_sections

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Made:
    """What a plan has when its claims are added: keys of artifacts.

    Attributes:
        examples: The examples.
        evaluations: Configuration → its evaluation.
        chunks: α → its retrained subsets.
        removals: Selector (``None``: the random baseline) with the keys of its order and its last size.
        trajectories: Summaries of [trajectory] by learning rate, and runs of [lookahead], by section.
        learning_rates: Of these sections.
    """

    examples: str
    evaluations: Mapping[str, str]
    chunks: Mapping[float, list[str]]
    removals: Sequence[tuple[Row | None, tuple[str, str]]]
    trajectories: Mapping[str, list[str]]
    learning_rates: Mapping[str, list[float]]


def add_claims(
    add: Adder, study: Mapping[str, Any], rows: Sequence[Row], made: Made, sources_of: Callable[[Row], list[str]]
) -> str:
    """Add the step and return its key; it reads only what its claims name.

    Args:
        add: Adds a step to the plan.
        study: The resolved study.
        rows: Its configurations.
        made: What the plan has so far.
        sources_of: Keys of a configuration's sources.

    Raises:
        StudyError: A claim names what the study does not have.
    """
    claims = study["claims"]
    check_against_rows(claims, rows)
    needed = {row["configuration_id"]: row for claim in claims for row in rows_of(claim, rows)}
    inputs: dict[str, Any] = {"examples": made.examples}
    inputs |= {f"evaluate {name}": made.evaluations[name] for name in needed}
    apart = [item for claim in claims for item in selectors_of(claim) if item.get("seeds")]
    for selector in apart:
        row = choose(rows, selector)
        inputs[f"sources {row['configuration_id']}"] = sources_of(row)
    if apart:
        inputs |= {f"retrain {alpha:g}": keys for alpha, keys in made.chunks.items()}
    for claim in claims:
        if claim["check"] == "flips":
            for selector in [*claim["left"], *claim["right"]]:
                role, keys = _removal(claim["id"], selector, made)
                inputs[role] = keys
        if claim["check"] in TRAJECTORY_CHECKS:
            check_against_sections(claim, study, made.learning_rates)
            section = SECTIONS[claim["check"]]
            inputs[section] = made.trajectories[section]
    settings = {
        "claims": claims, "alphas": list(made.chunks), "num_subsets": study["ground_truth"]["subsets"],
        "bootstrap": study["evaluation"]["bootstrap"], "seed": study["seed"],
        "sizes": study.get("removal", {}).get("sizes", []),
    }  # fmt: skip
    context = {"rows": list(needed.values()), "replaces": {"verdicts": {}}}
    # The examples, without which no study goes on, are what is always left: each claim gets a verdict, be it "not run".
    optional = [*dict.fromkeys(role for claim in claims for role in roles_of(claim, rows)), "examples"]
    return add("claims", "compare with the papers' claims", settings, inputs, context, 2.0, optional=optional)


def roles_of(claim: Row, rows: Sequence[Row]) -> list[str]:
    """Return the roles of the inputs that a claim needs, those of no configuration or section left out."""
    if claim["check"] in TRAJECTORY_CHECKS:
        return [SECTIONS[claim["check"]]]
    roles = [f"evaluate {row['configuration_id']}" for row in rows_of(claim, rows)]
    apart = [choose(rows, item) for item in selectors_of(claim) if item.get("seeds")]
    roles += [f"sources {row['configuration_id']}" for row in apart]
    if claim["check"] == "flips":
        roles += [removal_role(selector) for selector in [*claim["left"], *claim["right"]]]
    return roles


def removal_role(selector: Row) -> str:
    """Return the name of the input that holds a selector's subset removal."""
    return "removal " + " ".join(f"{name}={selector[name]}" for name in sorted(selector))


def _removal(claim: str, selector: Row, made: Made) -> tuple[str, tuple[str, str]]:
    for known, keys in made.removals:
        if dict(known or RANDOM) == dict(selector):
            return removal_role(selector), keys
    there = "; ".join(str(dict(known or RANDOM)) for known, _ in made.removals)
    raise StudyError(
        f"Claim {claim} compares subset removal by {dict(selector)}, which the study does not do.",
        f"[removal] of has: {there or 'nothing'}.",
    )
