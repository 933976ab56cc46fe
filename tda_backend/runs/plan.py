"""From a resolved study to steps: what to compute, in which order, under which content keys.

The order puts something true on the page early: after the first 20 retrained subsets one configuration is evaluated
(its rows are replaced once all subsets are there), then the rest of the subsets, then every checkpoint in turn.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from tda_backend.methods import METHODS
from tda_backend.runs.claim_plan import Made, add_claims
from tda_backend.runs.configurations import configurations, order, preview
from tda_backend.runs.counterfactual_plan import COUNTERFACTUAL_VERSIONS, Counterfactuals
from tda_backend.runs.facts import TaskFacts, check_against_task, study_record
from tda_backend.runs.plan_checks import check_methods
from tda_backend.runs.plan_sources import Sources, checkpoint_epochs
from tda_backend.runs.study import regularizations
from tda_backend.runs.trajectory_plan import TRAJECTORY_VERSIONS, add_trajectories, learning_rates
from tda_backend.seeds import hashed_seed
from tda_backend.store.artifacts import content_key, provisional_key
from tda_backend.training.cost import training_seconds

VERSIONS = {
    "examples": 1,
    "train": 1,
    "train-half": 1,
    "retrain": 1,
    "downsample": 1,
    "features": 1,
    "spectrum": 2,
    "curvature": 1,
    "kronecker": 1,
    "scores": 2,
    "evaluate": 4,
    "rules": 2,
    "claims": 4,
    "study": 1,
    **COUNTERFACTUAL_VERSIONS,
    **TRAJECTORY_VERSIONS,
}
"""Bumped by hand when a step's code changes what it computes."""
FIRST_CHUNK, NEXT_CHUNK = 20, 10
DTYPE = "float32"


@dataclass(frozen=True)
class Step:
    """One unit of work with its own artifact.

    Attributes:
        name: Key of the step table.
        label: For people.
        key: Content key of its artifact.
        settings: What it depends on beside its inputs.
        inputs: Keys of the artifacts it reads, by role.
        context: What ingest needs to know of it.
        weight: Rough cost in seconds, for the time left.
        optional: Roles of inputs that it can do without where they fail, as long as one of them is left.
    """

    name: str
    label: str
    key: str
    settings: Mapping[str, Any]
    inputs: Mapping[str, tuple[str, ...]]
    context: Mapping[str, Any] = field(default_factory=dict)
    weight: float = 1.0
    optional: tuple[str, ...] = ()

    def can_do_without(self, roles: Collection[str]) -> bool:
        """Return whether the step has a meaning without the inputs of ``roles``."""
        return set(roles) < set(self.optional)

    def without(self, reasons: Mapping[str, str]) -> Step:
        """Return the step as it is computed without some inputs (role → why), under a key that caches nothing."""
        inputs = {role: keys for role, keys in self.inputs.items() if role not in reasons}
        context = {**self.context, "missing": dict(reasons)}
        return replace(self, key=provisional_key(self.key), inputs=inputs, context=context)


@dataclass(frozen=True)
class Plan:
    """All steps of a study, in order, and the record that the catalogue takes in first."""

    study_id: str
    name: str
    config: Mapping[str, Any]
    facts: TaskFacts
    device: str
    steps: tuple[Step, ...]
    record: Mapping[str, Any]
    key: str


class _Builder:
    """Collects steps; keys cover version, settings, inputs, task, dtype, device type and torch's minor version."""

    def __init__(self, study: Mapping[str, Any], facts: TaskFacts, device: str) -> None:
        self.study, self.facts = study, facts
        self.steps: list[Step] = []
        self.common = {
            "task": facts.fingerprint,
            "dtype": DTYPE,
            "device": torch.device(device).type,
            "torch": ".".join(torch.__version__.split("+")[0].split(".")[:2]),
        }

    def add(
        self, name: str, label: str, settings: dict, inputs: dict[str, Any], context: dict, weight: float,
        optional: Sequence[str] = (),
    ) -> str:  # fmt: skip
        keys = {role: (value,) if isinstance(value, str) else tuple(value) for role, value in inputs.items()}
        key = content_key(step=name, version=VERSIONS[name], settings=settings, inputs=keys, **self.common)
        known = next((step for step in self.steps if step.key == key), None)
        if known is None:
            self.steps.append(Step(name, label, key, settings, keys, context, weight, tuple(optional)))
        elif "configurations" in context:  # several configurations share one artifact
            shared = known.context["configurations"]
            shared.extend(each for each in context["configurations"] if each not in shared)
        return key


def build_plan(study: Mapping[str, Any], facts: TaskFacts, device: str = "cpu") -> Plan:
    """Return the plan of a resolved study.

    Raises:
        StudyError: The study asks for more than the task has.
    """
    check_against_task(study, facts)
    check_methods(study, facts)
    make = _Builder(study, facts, device)
    data, num_seeds = study["data"], study["training"]["seeds"]
    settings = {**data, "seed": study["seed"]}
    examples = make.add("examples", "examples", settings, {}, {}, 2.0)
    model_epochs = training_seconds(facts.task, data["train"]) if facts.trains else 0.0
    rows = configurations(study)
    epochs = checkpoint_epochs(rows, study, facts.task)
    trained = []
    for seed in range(num_seeds):
        settings = {"epochs": epochs, "seed": hashed_seed("training", study["seed"], seed) if facts.trains else 0}
        label = "train" if num_seeds == 1 else f"train seed {seed}"
        context = {"seed_index": seed}
        trained.append(make.add("train", label, settings, {"examples": examples}, context, model_epochs + 0.5))
    chunks: dict[float, list[str]] = {alpha: [] for alpha in study["ground_truth"]["alphas"]}
    first_row = preview(rows)
    total = study["ground_truth"]["subsets"]

    def retrain(alpha: float, first: int, last: int) -> None:
        repeats = study["ground_truth"]["repeats"]
        settings = {"alpha": alpha, "first": first, "last": last, "repeats": repeats, "seed": study["seed"]}
        at = "" if len(chunks) == 1 else f" at α={alpha:g}"
        key = make.add(
            "retrain", f"retrain subsets {first + 1}–{last}{at}", settings, {"examples": examples},
            {"alpha": alpha}, (last - first) * repeats * alpha * model_epochs * 0.6,
        )  # fmt: skip
        chunks[alpha].append(key)

    sources = Sources(make.add, study, examples, trained, model_epochs)
    if total:
        first_alpha = next(iter(chunks))
        retrain(first_alpha, 0, min(FIRST_CHUNK, total))
        if total > FIRST_CHUNK and first_row is not None:
            keys = [sources.spectrum(first_row, seed) for seed in range(num_seeds)]
            _evaluate(make, study, first_row, examples, keys, {first_alpha: chunks[first_alpha][:]}, "preview: ")
        for alpha in chunks:
            if alpha != first_alpha:
                retrain(alpha, 0, min(FIRST_CHUNK, total))
            for start in range(FIRST_CHUNK, total, NEXT_CHUNK):
                retrain(alpha, start, min(start + NEXT_CHUNK, total))
    evaluations = {
        row["configuration_id"]: _evaluate(make, study, row, examples, sources.of(row), chunks, "")
        for row in sorted(rows, key=lambda row: order(row, first_row))
    }
    if total and any(row["has_regularization"] for row in rows):
        for alpha, keys in chunks.items():
            judged: dict[str, Any] = {f"evaluate {name}": key for name, key in evaluations.items()}
            inputs = {**judged, "examples": examples, "retrain": keys, "train": trained[0]}
            settings = {
                "alpha": alpha, "training_seed": hashed_seed("training", study["seed"], 0),
                "threshold": study["evaluation"]["threshold"],
            }  # fmt: skip
            at = "" if len(chunks) == 1 else f" at α={alpha:g}"
            context = {"rows": rows, "replaces": {table: {"alpha": alpha} for table in ("rules", "tuning", "races")}}
            make.add(
                "rules", f"judge the rules for λ{at}", settings, inputs, context, 1.0 + len(rows), optional=list(judged)
            )
    counterfactuals = Counterfactuals(make.add, study, rows, examples, evaluations, sources.of, model_epochs)
    counterfactuals.add_all(has_noise="flip_labels" in data or facts.task.noisy_rows() is not None)
    trajectories = add_trajectories(make.add, study, facts, examples)
    rates = {section: learning_rates(study, facts, section) for section in trajectories}
    if study.get("claims"):
        made = Made(examples, evaluations, chunks, counterfactuals.removals, trajectories, rates)
        add_claims(make.add, study, rows, made, sources.of)
    record = study_record(study, facts, device, rows, [_entry(step) for step in make.steps])
    key = content_key(
        step="study", version=VERSIONS["study"], study_id=record["study_id"], steps=[step.key for step in make.steps]
    )
    return Plan(record["study_id"], study["name"], study, facts, device, tuple(make.steps), record, key)


def _entry(step: Step) -> dict[str, Any]:
    return {"key": step.key, "label": step.label, "context": dict(step.context)}


def _evaluate(
    make: _Builder, study: Mapping[str, Any], row: Mapping[str, Any], examples: str, sources: list[str],
    chunks: Mapping[float, list[str]], prefix: str,
) -> str:  # fmt: skip
    settings: dict[str, Any] = {
        "evaluation": study["evaluation"],
        "seed": study["seed"],
        "method": row["method"],
        "alphas": list(chunks),
    }
    if row["has_regularization"]:
        settings["parameters"] = dict(row["parameters"])
    if row["has_regularization"]:
        settings["regularizations"] = regularizations(study)
        settings["default_regularization"] = METHODS[row["method"]].default_for(row["parameters"])
    used = {f"retrain {alpha:g}": keys for alpha, keys in chunks.items() if keys}
    total = study["ground_truth"]["subsets"]
    num_subsets = min(FIRST_CHUNK, total) if prefix else total
    context = {"configuration_id": row["configuration_id"], "num_subsets": num_subsets}
    cost = 0.5 + (row["projection_dim"] or study["data"]["train"]) / 2500
    inputs = {"examples": examples, "sources": sources, **used}
    return make.add("evaluate", f"{prefix}evaluate {row['label']}", settings, inputs, context, cost)
