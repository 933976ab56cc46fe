"""From a resolved study to steps: what to compute, in which order, under which content keys.

The order puts something true on the page early: after the first 20 retrained subsets one configuration is evaluated
(its rows are replaced once all subsets are there), then the rest of the subsets, then every checkpoint in turn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from tda_backend.methods import METHODS
from tda_backend.runs.facts import TaskFacts, check_against_task, study_record
from tda_backend.runs.study import NONE, regularizations
from tda_backend.seeds import hashed_seed
from tda_backend.store.artifacts import content_key

VERSIONS = {
    "examples": 1,
    "train": 1,
    "retrain": 1,
    "features": 1,
    "spectrum": 1,
    "scores": 1,
    "evaluate": 1,
    "study": 1,
}
"""Bumped by hand when a step's code changes what it computes."""
FIRST_CHUNK, NEXT_CHUNK = 20, 10
PREVIEW_DIM = 512
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
    """

    name: str
    label: str
    key: str
    settings: Mapping[str, Any]
    inputs: Mapping[str, tuple[str, ...]]
    context: Mapping[str, Any] = field(default_factory=dict)
    weight: float = 1.0


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

    def add(self, name: str, label: str, settings: dict, inputs: dict[str, Any], context: dict, weight: float) -> str:
        keys = {role: (value,) if isinstance(value, str) else tuple(value) for role, value in inputs.items()}
        key = content_key(step=name, version=VERSIONS[name], settings=settings, inputs=keys, **self.common)
        if all(step.key != key for step in self.steps):
            self.steps.append(Step(name, label, key, settings, keys, context, weight))
        return key


def build_plan(study: Mapping[str, Any], facts: TaskFacts, device: str = "cpu") -> Plan:
    """Return the plan of a resolved study.

    Raises:
        StudyError: The study asks for more than the task has.
    """
    check_against_task(study, facts)
    make = _Builder(study, facts, device)
    data, num_seeds = study["data"], study["training"]["seeds"]
    num_vectors = data["train"] + data["validation"] + data["queries"]
    cube = (num_vectors / 6000) ** 3
    settings = {**data, "seed": study["seed"]}
    examples = make.add("examples", "examples", settings, {}, {}, 2.0)
    model_epochs = data["train"] / 5000 * facts.num_epochs * 0.027
    trained = []
    for seed in range(num_seeds):
        settings = {
            "epochs": study["training"]["epochs"],
            "seed": hashed_seed("training", study["seed"], seed) if facts.trains else 0,
        }
        label = "train" if num_seeds == 1 else f"train seed {seed}"
        context = {"seed_index": seed}
        trained.append(make.add("train", label, settings, {"examples": examples}, context, model_epochs + 0.5))
    configurations = _configurations(study)
    chunks: dict[float, list[str]] = {alpha: [] for alpha in study["ground_truth"]["alphas"]}
    preview = _preview(configurations)
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

    sources = _Sources(make, study, examples, trained, num_vectors, cube)
    if total:
        first_alpha = next(iter(chunks))
        retrain(first_alpha, 0, min(FIRST_CHUNK, total))
        if total > FIRST_CHUNK and preview is not None:
            keys = [sources.spectrum(preview, seed) for seed in range(num_seeds)]
            _evaluate(make, study, preview, examples, keys, {first_alpha: chunks[first_alpha][:]}, "preview: ")
        for alpha in chunks:
            if alpha != first_alpha:
                retrain(alpha, 0, min(FIRST_CHUNK, total))
            for start in range(FIRST_CHUNK, total, NEXT_CHUNK):
                retrain(alpha, start, min(start + NEXT_CHUNK, total))
    for configuration in sorted(configurations, key=lambda row: _order(row, preview)):
        keys = [sources.of(configuration, seed) for seed in range(num_seeds)]
        _evaluate(make, study, configuration, examples, keys, chunks, "")
    record = study_record(study, facts, device, configurations, [_entry(step) for step in make.steps])
    key = content_key(
        step="study", version=VERSIONS["study"], study_id=record["study_id"], steps=[step.key for step in make.steps]
    )
    return Plan(record["study_id"], study["name"], study, facts, device, tuple(make.steps), record, key)


def _entry(step: Step) -> dict[str, Any]:
    return {"key": step.key, "label": step.label, "context": dict(step.context)}


def _order(row: Mapping[str, Any], preview: Mapping[str, Any] | None) -> tuple:
    """Checkpoint by checkpoint (a checkpoint's Gram serves all of it), that of the preview first; scores last."""
    first = preview is not None and row["training_epoch"] == preview["training_epoch"]
    dim = row["projection_dim"]
    # The largest λ-sweep first would delay the others: small k first, unprojected last.
    return (not row["has_regularization"], not first, row["training_epoch"], dim is None, dim or 0, row["method"])


def _configurations(study: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    num_seeds = study["training"]["seeds"]
    for name, settings in study["methods"].items():
        spec = METHODS[name]
        title = "TRAK" if name == "trak" and num_seeds == 1 else f"TRAK-{num_seeds}" if name == "trak" else spec.title
        if not spec.has_regularization:
            epochs = settings["epochs"][-settings["num_checkpoints"] :]
            for normalization in settings["normalization"]:
                rows.append(
                    _row(name, title, epochs[-1], None, {"normalization": normalization, "epochs": epochs}, num_seeds)
                )
            continue
        for epoch in settings["epochs"]:
            for dim in settings["projection_dim"]:
                if dim == NONE and epoch not in settings["unprojected_epochs"]:
                    continue
                parameters = {} if dim == NONE else {"projection": study["projection"]["kind"]}
                rows.append(_row(name, title, epoch, None if dim == NONE else dim, parameters, num_seeds))
    for row in rows:
        row["configuration_id"] = content_key(
            method=row["method"], epoch=row["training_epoch"], dim=row["projection_dim"], parameters=row["parameters"],
            projection=study["projection"] if row["projection_dim"] else None, seeds=num_seeds,
        )[:12]  # fmt: skip
    return rows


def _row(name: str, title: str, epoch: int, dim: int | None, parameters: dict, num_seeds: int) -> dict[str, Any]:
    spec = METHODS[name]
    if spec.has_regularization:
        label = f"{title} · {'unprojected' if dim is None else f'k={dim}'} · epoch {epoch}"
    else:
        kind = "normalised" if parameters["normalization"] else "plain"
        label = f"{title} · {kind} · {len(parameters['epochs'])} checkpoints to epoch {epoch}"
    return {
        "method": name, "title": title, "training_epoch": epoch, "projection_dim": dim, "parameters": parameters,
        "label": label, "has_regularization": spec.has_regularization, "num_seeds": num_seeds, "num_sources": num_seeds,
    }  # fmt: skip


def _preview(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the configuration that is evaluated first: a cheap projection at a middle-to-late checkpoint."""
    spectral = [row for row in rows if row["has_regularization"]]
    if not spectral:
        return None
    epochs = sorted({row["training_epoch"] for row in spectral})
    middle = epochs[min(len(epochs) - 1, (len(epochs) + 1) // 2)]
    at_middle = [row for row in spectral if row["training_epoch"] == middle]
    return min(
        at_middle, key=lambda row: (row["method"] != "iffim", abs((row["projection_dim"] or 10**6) - PREVIEW_DIM))
    )


class _Sources:
    """Adds features, spectra and score matrices to the plan, each once."""

    def __init__(
        self, make: _Builder, study: Mapping[str, Any], examples: str, trained: list[str], num_vectors: int, cube: float
    ) -> None:
        self.make, self.study, self.examples, self.trained = make, study, examples, trained
        self.num_vectors, self.cube = num_vectors, cube

    def features(self, seed: int, epoch: int) -> str:
        inputs = {"examples": self.examples, "train": self.trained[seed]}
        label = f"features epoch {epoch}" + self._of(seed)
        return self.make.add("features", label, {"epoch": epoch}, inputs, {}, 1.0 * self.num_vectors / 6000)

    def _of(self, seed: int) -> str:
        return f" seed {seed}" if len(self.trained) > 1 else ""

    def spectrum(self, row: Mapping[str, Any], seed: int) -> str:
        epoch, dim = row["training_epoch"], row["projection_dim"]
        projection = self.study["projection"]
        settings: dict[str, Any] = {"method": row["method"], "dim": dim}
        if dim is not None:
            draw = hashed_seed("projection", projection["seed"], seed, epoch)
            settings |= {"kind": projection["kind"], "max_dim": projection["max_dim"], "draw": draw}
        cost = 18 * self.cube if dim is None else 0.5 + 4 * (dim / 2048) ** 2 * self.num_vectors / 6000
        inputs = {"features": self.features(seed, epoch)}
        if settings.get("kind", "gaussian") != "gaussian":  # models without factors take their gradients again
            inputs |= {"examples": self.examples, "train": self.trained[seed]}
            settings["epoch"] = epoch
        context = {"seed_index": seed, "configurations": [row["configuration_id"]]}
        return self.make.add("spectrum", f"spectrum {row['label']}{self._of(seed)}", settings, inputs, context, cost)

    def of(self, row: Mapping[str, Any], seed: int) -> str:
        if row["has_regularization"]:
            return self.spectrum(row, seed)
        epochs = row["parameters"]["epochs"]
        inputs = {"train": self.trained[seed], "features": [self.features(seed, epoch) for epoch in epochs]}
        settings = {"method": row["method"], "normalization": row["parameters"]["normalization"], "epochs": epochs}
        context = {"seed_index": seed, "configurations": [row["configuration_id"]]}
        return self.make.add("scores", f"scores {row['label']}{self._of(seed)}", settings, inputs, context, 2.0)


def _evaluate(
    make: _Builder, study: Mapping[str, Any], row: Mapping[str, Any], examples: str, sources: list[str],
    chunks: Mapping[float, list[str]], prefix: str,
) -> None:  # fmt: skip
    settings: dict[str, Any] = {
        "evaluation": study["evaluation"],
        "seed": study["seed"],
        "method": row["method"],
        "alphas": list(chunks),
    }
    if row["has_regularization"]:
        settings["regularizations"] = regularizations(study)
    used = {f"retrain {alpha:g}": keys for alpha, keys in chunks.items() if keys}
    total = study["ground_truth"]["subsets"]
    num_subsets = min(FIRST_CHUNK, total) if prefix else total
    context = {"configuration_id": row["configuration_id"], "num_subsets": num_subsets}
    cost = 0.5 + (row["projection_dim"] or study["data"]["train"]) / 2500
    inputs = {"examples": examples, "sources": sources, **used}
    make.add("evaluate", f"{prefix}evaluate {row['label']}", settings, inputs, context, cost)
