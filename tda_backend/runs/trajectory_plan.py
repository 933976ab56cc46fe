"""The steps of a plan that unroll training runs and that select while training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tda_backend.errors import StudyError
from tda_backend.runs.facts import TaskFacts
from tda_backend.runs.plan_checks import check_unrollable
from tda_backend.runs.plan_sources import Adder
from tda_backend.runs.trajectory_study import ALL_STEPS, LOOKING_AHEAD
from tda_backend.seeds import hashed_seed
from tda_backend.training.schedule import steps_per_epoch

_FEWEST_TEST_EXAMPLES = 2  # an interval over test examples needs as many
TRAJECTORY_VERSIONS = {
    "trajectory-influence": 1,
    "trajectory-truth": 1,
    "trajectory-proxy": 1,
    "trajectory-comparison": 3,
    "trajectory-summary": 3,
    "lookahead": 1,
    "lookahead-summary": 2,
}


def add_trajectories(add: Adder, study: Mapping[str, Any], facts: TaskFacts, examples: str) -> dict[str, list[str]]:
    """Add the steps of [trajectory] and [lookahead].

    Args:
        add: Adds one step.
        study: The resolved study.
        facts: The task's.
        examples: Key of the examples.

    Returns:
        By section, what claims read: the summaries of every learning rate; the runs with selection.

    Raises:
        StudyError: The task has no run of an optimizer that could be unrolled, or too few test examples.
    """
    _check(study, facts)
    made: dict[str, list[str]] = {}
    if "trajectory" in study:
        made["trajectory"] = _add_unrolled(add, study, facts, examples)
    if "lookahead" in study:
        made["lookahead"] = _add_lookahead(add, study, facts, examples)
    return made


def learning_rates(study: Mapping[str, Any], facts: TaskFacts, section: str) -> list[float]:
    """Return the learning rates that a section names, or the task's own."""
    training = facts.task.training
    assert training is not None
    return study[section].get("learning_rates", [training.learning_rate])


def num_steps(study: Mapping[str, Any], facts: TaskFacts) -> int:
    """Return the steps of one run."""
    training = facts.task.training
    assert training is not None
    return steps_per_epoch(training, study["data"]["train"]) * training.num_epochs


def run_seed(study: Mapping[str, Any], number: int) -> int:
    """Return the training seed of a run: the same as of the study's trained model of that number."""
    return hashed_seed("training", study["seed"], number)


def _check(study: Mapping[str, Any], facts: TaskFacts) -> None:
    sections = [name for name in ("trajectory", "lookahead") if name in study]
    if not sections:
        return
    check_unrollable(facts.task, sections[0])
    data = study["data"]
    if "lookahead" in study and data["validation"] + data["queries"] > facts.num_test - _FEWEST_TEST_EXAMPLES:
        raise StudyError(
            f"[lookahead] needs test examples beside the {data['validation']} of validation and the "
            f"{data['queries']} queries, but the task has {facts.num_test}.",
            "Lower data.validation or data.queries: what is left judges the selection.",
        )


def _add_unrolled(add: Adder, study: Mapping[str, Any], facts: TaskFacts, examples: str) -> list[str]:
    section, steps = study["trajectory"], num_steps(study, facts)
    removed = {"removed": section["removed"], "choice": study["seed"], "budget_gib": section["budget_gib"]}
    # Seconds on one core per product of a batch's curvature with one vector, about.
    product = 1e-9 * facts.num_parameters * facts.task.training.batch_size / 3  # type: ignore[union-attr]  # checked
    queries, summaries = study["data"]["queries"], []
    for rate in learning_rates(study, facts, "trajectory"):
        comparisons = []
        for number in range(section["seeds"]):
            run = {"learning_rate": rate, "seed": run_seed(study, number)}
            at = f"η={rate:g}" + ("" if section["seeds"] == 1 else f", seed {number}")
            columns = {"learning_rate": rate, "seed_index": number}
            inputs: dict[str, Any] = {"examples": examples}
            key = add(
                "trajectory-influence", f"unroll the run at {at}",
                {**run, **removed, "curvatures": section["curvatures"]}, inputs, {"columns": columns},
                steps * queries * product * (len(section["curvatures"]) + 1),
            )  # fmt: skip
            horizons = {"horizons": section["horizons"]}
            truth = add(
                "trajectory-truth", f"train without each of {section['removed']} at {at}",
                {**run, **removed, **horizons}, inputs, {"columns": columns}, steps * section["removed"] * product,
            )  # fmt: skip
            parts = {"examples": examples, "influence": key, "truth": truth}
            if section["proxy"]:
                settings = {**run, **removed, **horizons, "curvature": section["curvatures"][0]}
                parts["proxy"] = add(
                    "trajectory-proxy", f"estimate the error at {at}", settings, inputs, {"columns": columns},
                    4 * steps * section["removed"] * product,
                )  # fmt: skip
            settings = {"bootstrap": study["evaluation"]["bootstrap"], "seed": study["seed"]}
            comparisons.append(
                add(
                    "trajectory-comparison", f"compare prediction and truth at {at}", settings, parts,
                    {"columns": columns}, 3.0,
                )
            )  # fmt: skip
        context = {"columns": {"learning_rate": rate}}
        inputs = {"comparisons": comparisons}
        summaries.append(
            add("trajectory-summary", f"mean over seeds at η={rate:g}", {"learning_rate": rate}, inputs, context, 0.5)
        )
    return summaries


def _add_lookahead(add: Adder, study: Mapping[str, Any], facts: TaskFacts, examples: str) -> list[str]:
    section, steps = study["lookahead"], num_steps(study, facts)
    keys = []
    # What looks beyond the end of the run looks at the whole run.
    whole = [ALL_STEPS if horizon == ALL_STEPS or horizon >= steps else horizon for horizon in section["horizons"]]
    horizons = list(dict.fromkeys(whole))
    for rate in learning_rates(study, facts, "lookahead"):
        for number in range(section["seeds"]):
            settings = {
                "learning_rate": rate, "seed": run_seed(study, number), "fraction": section["fraction"],
                "strategies": section["strategies"], "horizons": horizons,
            }  # fmt: skip
            at = f"η={rate:g}" + ("" if section["seeds"] == 1 else f", seed {number}")
            context = {"columns": {"learning_rate": rate, "seed_index": number}}
            ahead = len(set(section["strategies"]) & set(LOOKING_AHEAD))
            runs = len(section["strategies"]) - ahead + ahead * len(horizons)
            weight = 1e-8 * steps * runs * facts.num_parameters * 64
            keys.append(
                add("lookahead", f"select while training at {at}", settings, {"examples": examples}, context, weight)
            )
    settings = {"bootstrap": study["evaluation"]["bootstrap"], "seed": study["seed"]}
    add("lookahead-summary", "tune K and learning rate", settings, {"lookahead": keys}, {}, 1.0)
    return keys
