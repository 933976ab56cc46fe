"""The step of a plan that compares a study's claims with its figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tda_backend.runs.claim_rules import check_against_rows, rows_of, selectors_of
from tda_backend.runs.plan_sources import Adder
from tda_backend.runs.selectors import choose

Row = Mapping[str, Any]


def add_claims(
    add: Adder, study: Mapping[str, Any], rows: Sequence[Row], inputs: Mapping[str, Any],
    evaluations: Mapping[str, str], sources_of: Callable[[Row], list[str]], chunks: Mapping[float, list[str]],
) -> str:  # fmt: skip
    """Add the step and return its key; it reads only what its claims name.

    Args:
        add: Adds a step to the plan.
        study: The resolved study.
        rows: Its configurations.
        inputs: Further artifacts that claims read, by role.
        evaluations: Configuration → key of its evaluation.
        sources_of: Keys of a configuration's sources.
        chunks: α → keys of its retrained subsets.

    Raises:
        StudyError: A claim names what the study does not have.
    """
    claims = study["claims"]
    check_against_rows(claims, rows)
    needed = {row["configuration_id"]: row for claim in claims for row in rows_of(claim, rows)}
    inputs = dict(inputs) | {f"evaluate {name}": evaluations[name] for name in needed}
    apart = [item for claim in claims for item in selectors_of(claim) if item.get("seeds")]
    for selector in apart:
        row = choose(rows, selector)
        inputs[f"sources {row['configuration_id']}"] = sources_of(row)
    if apart:
        inputs |= {f"retrain {alpha:g}": keys for alpha, keys in chunks.items()}
    settings = {
        "claims": claims, "alphas": list(chunks), "num_subsets": study["ground_truth"]["subsets"],
        "bootstrap": study["evaluation"]["bootstrap"], "seed": study["seed"],
    }  # fmt: skip
    return add("claims", "compare with the papers' claims", settings, inputs, {"rows": list(needed.values())}, 2.0)
