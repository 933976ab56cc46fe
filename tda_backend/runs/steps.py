"""What each step of a plan computes. One function a step: inputs from artifacts, output through a writer."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor

from tda_backend.attribution.influence import build_spectrum
from tda_backend.attribution.tracin import tracin_scores
from tda_backend.errors import DataError, TaskError
from tda_backend.features.checkpoint_features import CheckpointFeatures, checkpoint_features, gradient_requests
from tda_backend.features.dense import project_gradients
from tda_backend.features.projection import Projection, gaussian_from_gram, nested, project_factors
from tda_backend.runs.evaluate_step import evaluation_tables
from tda_backend.runs.plan import Plan, Step
from tda_backend.runs.sources import read_masks, read_outputs, read_source, write_spectrum
from tda_backend.seeds import hashed_rng
from tda_backend.store.artifacts import ArtifactStore, ArtifactWriter
from tda_backend.training.checkpoints import load_checkpoints
from tda_backend.training.contract import persons_code
from tda_backend.training.fit import evaluate, model_from, train
from tda_backend.training.retraining import retrain_subsets
from tda_backend.training.subsets import subset_masks
from tda_backend.types import Batch, Display, Task

Progress = Callable[[int, int], None]


@dataclass
class Memo:
    """What the spectra of one checkpoint share and nothing stores: its Gram matrix and its random features."""

    features_key: str = ""
    features: CheckpointFeatures | None = None
    gram: Tensor | None = None
    projected: Tensor | None = None

    def clear(self) -> None:
        """Free everything."""
        self.features_key, self.features, self.gram, self.projected = "", None, None, None


@dataclass
class RunContext:
    """What steps work with.

    Attributes:
        plan: The study's plan.
        data: The task's train and test splits.
        store: Where artifacts lie.
        on_progress: Called with (done, total) units of the present step.
        needed_later: Keys of spectra still to come in this run; decides when shared matrices are freed.
    """

    plan: Plan
    data: dict[str, Batch]
    store: ArtifactStore
    on_progress: Progress = lambda done, total: None
    memo: Memo = field(default_factory=Memo)
    needed_later: frozenset[str] = frozenset()

    @property
    def task(self) -> Task:
        return self.plan.facts.task

    @property
    def device(self) -> str:
        return self.plan.device

    def positions(self, step: Step) -> dict[str, np.ndarray]:
        """Return the data-set indices of train, validation and queries."""
        artifact = self.store.open(step.inputs["examples"][0])
        return {name: artifact.array(name, mmap=False) for name in ("train", "validation", "queries")}


def split_indices(settings: Mapping[str, Any], num_train: int, num_test: int) -> dict[str, np.ndarray]:
    """Draw which examples take part: ascending train indices; validation and queries disjoint in the test set."""
    train_order = hashed_rng("split", settings["seed"], "train").permutation(num_train)
    test_order = hashed_rng("split", settings["seed"], "test").permutation(num_test)
    validation, queries = settings["validation"], settings["queries"]
    return {
        "train": np.sort(train_order[: settings["train"]]),
        "validation": np.sort(test_order[:validation]),
        "queries": np.sort(test_order[validation : validation + queries]),
    }


def run_examples(context: RunContext, step: Step, writer: ArtifactWriter) -> None:
    """Draw the split and store how its examples look."""
    facts, task = context.plan.facts, context.task
    indices = split_indices(step.settings, facts.num_train, facts.num_test)
    for name, values in indices.items():
        writer.array(name, values)
    shown: dict[tuple[str, int], dict[str, Any]] = {}
    rows: list[dict[str, Any]] = []
    for split, values in {**indices, "test": np.arange(facts.num_test)}.items():
        source = "train" if split == "train" else "test"
        labels = context.data[source].get(task.label_key)
        for position, index in enumerate(values.tolist()):
            if (source, index) not in shown:
                shown[source, index] = _display_row(task, source, index)
            label = "" if labels is None else _label(task, labels[index])
            rows.append({"split": split, "position": position, "index": index, "label": label, **shown[source, index]})
        context.on_progress(len(rows), sum(map(len, indices.values())) + facts.num_test)
    schema = pa.schema([
        ("split", pa.string()), ("position", pa.int32()), ("index", pa.int32()), ("label", pa.string()),
        ("kind", pa.string()), ("caption", pa.string()), ("image", pa.binary()), ("text", pa.string()),
    ])  # fmt: skip
    writer.table("examples", pa.Table.from_pylist(rows, schema=schema))


def _label(task: Task, value: Tensor) -> str:
    """Return the text form of a label or a prediction: a class name, or a number."""
    if value.numel() != 1:
        return str(value.tolist())
    number = value.item()
    if task.num_classes is not None:
        if not 0 <= number < task.num_classes:  # a label passed validate_data, so this is a prediction
            raise TaskError(
                f"predict of task {task.name!r} gives the class {number:g}.",
                f"Classes are 0 to {task.num_classes - 1}.",
            )
        return str(task.class_names[int(number)]) if task.class_names else str(int(number))
    return f"{number:g}"


def _display_row(task: Task, split: str, index: int) -> dict[str, Any]:
    with persons_code(task, f"show({split!r}, {index})"):
        return _display_fields(task, split, index)


def _display_fields(task: Task, split: str, index: int) -> dict[str, Any]:
    display: Any = task.show(split, index)
    if not isinstance(display, Display):
        raise TaskError(
            f"show({split!r}, {index}) of task {task.name!r} returns a {type(display).__name__}.", "Return a Display."
        )
    for name in ("caption", "text"):
        if not isinstance(getattr(display, name), str):
            found = type(getattr(display, name)).__name__
            raise TaskError(
                f"The {name} of show({split!r}, {index}) of task {task.name!r} is a {found}.", "Give a string."
            )
    row: dict[str, Any] = {"kind": display.kind, "caption": display.caption, "image": None, "text": None}
    if display.kind == "image":
        if display.image is None or display.image.dtype != np.uint8 or display.image.ndim not in (2, 3):
            raise TaskError(
                f"show({split!r}, {index}) of task {task.name!r} gives no uint8 [h, w] or [h, w, 3] image.",
                "Scale pixels to 0…255 and convert with .astype('uint8').",
            )
        buffer = io.BytesIO()
        Image.fromarray(display.image).save(buffer, format="PNG")
        row["image"] = buffer.getvalue()
    elif display.kind == "row":
        row["text"] = json.dumps(dict(display.row), default=str)
    else:
        row["text"] = display.text
    return row


def run_train(context: RunContext, step: Step, writer: ArtifactWriter) -> None:
    """Train the attributed model (or load given checkpoints); store checkpoints and what the final model says."""
    task, facts = context.task, context.plan.facts
    indices = context.positions(step)
    wanted = step.settings["epochs"]
    if facts.trains:
        epochs = sorted({*wanted, facts.num_epochs})  # the final model is what predictions and retrainings refer to
        checkpoints = train(
            task, context.data["train"], indices["train"], step.settings["seed"], epochs, context.device,
            context.on_progress, seed_index=step.context["seed_index"],
        )  # fmt: skip
    else:
        checkpoints = load_checkpoints(task, step.context["seed_index"])
    rows = []
    for checkpoint in checkpoints:
        if checkpoint.epoch in wanted:
            name = f"epoch-{checkpoint.epoch:04d}"
            writer.tensors(name, checkpoint.state)
            rows.append({
                "seed_index": checkpoint.seed_index, "training_epoch": checkpoint.epoch,
                "learning_rate": checkpoint.learning_rate, "file": f"{name}.safetensors",
            })  # fmt: skip
    writer.table("checkpoints", pd.DataFrame(rows).drop(columns="seed_index"))
    writer.facts["learning_rates"] = {str(row["training_epoch"]): row["learning_rate"] for row in rows}
    model = model_from(task, checkpoints[-1].state)
    parts = []
    for split in ("train", "test"):
        says = evaluate(task, model, context.data[split], context.device)
        count = len(says.goodness)
        predicted = [None] * count if says.prediction is None else [_label(task, value) for value in says.prediction]
        frame = pd.DataFrame({"split": split, "index": np.arange(count, dtype=np.int32)})
        frame["prediction"] = pd.array(predicted, dtype="str")
        frame["goodness"], frame["loss"] = says.goodness.numpy(), says.loss.numpy()
        parts.append(frame)
    writer.table("predictions", pd.concat(parts, ignore_index=True))


def run_retrain(context: RunContext, step: Step, writer: ArtifactWriter) -> None:
    """Retrain a chunk of random subsets; store goodness on the whole test set."""
    settings = step.settings
    train_indices = context.positions(step)["train"]
    masks = subset_masks(len(train_indices), settings["alpha"], settings["last"], settings["seed"])
    ids = list(range(settings["first"], settings["last"]))
    chunk = masks[settings["first"] :]
    outputs = retrain_subsets(
        context.task, context.data, train_indices, chunk, ids, repeats=settings["repeats"], seed=settings["seed"],
        device=context.device, on_progress=context.on_progress,
    )  # fmt: skip
    values = np.asarray(outputs, dtype=np.float32)
    bad = ~np.isfinite(values)
    if bad.any():
        subset, repeat, example = (int(axis) for axis in np.argwhere(bad)[0])
        raise DataError(
            f"{int(bad.sum())} outputs of retrained models are not finite "
            f"(first: subset {ids[subset]}, repeat {repeat}, test example {example}).",
            "The training diverges on subsets: lower the learning rate.",
        )
    writer.array("outputs", values)
    writer.array("masks", chunk)
    writer.table("retrainings", pd.DataFrame([
        {"subset_index": number, "repeat": repeat, "subset_size": int(chunk[row].sum()),
         "mean_goodness": float(values[row, repeat].mean())}
        for row, number in enumerate(ids) for repeat in range(settings["repeats"])
    ]))  # fmt: skip


def run_features(context: RunContext, step: Step, writer: ArtifactWriter) -> None:
    """Take gradients at one checkpoint."""
    indices = context.positions(step)
    trained = context.store.open(step.inputs["train"][0])
    model = model_from(context.task, trained.tensors(f"epoch-{step.settings['epoch']:04d}"))
    features = checkpoint_features(
        context.task, model, context.data, torch.from_numpy(indices["train"]), torch.from_numpy(indices["validation"]),
        torch.from_numpy(indices["queries"]), context.device,
    )  # fmt: skip
    for name, values in features.to_arrays().items():
        writer.array(name, values)


def run_spectrum(context: RunContext, step: Step, writer: ArtifactWriter) -> None:
    """Decompose one method's curvature at one checkpoint; Gram matrix and draw are shared through the memo."""
    memo, settings = context.memo, step.settings
    features_key = step.inputs["features"][0]
    if memo.features_key != features_key:
        memo.clear()
        memo.features_key = features_key
        memo.features = CheckpointFeatures.from_arrays(context.store.open(features_key).arrays())
    assert memo.features is not None
    later = [other for other in context.plan.steps if other.key in context.needed_later
             and other.inputs.get("features") == step.inputs["features"] and other.name == "spectrum"]  # fmt: skip
    wants_gram = any(other.settings["dim"] is None for other in later)
    if settings["dim"] is None:
        gram = _gram(memo)
        if not wants_gram:
            memo.gram = None
        if not any(other.settings["dim"] is not None for other in later):
            memo.projected = None
        spectrum = build_spectrum(settings["method"], memo.features, gram=gram)
    else:
        projected = nested(_projected(context, step, keep_gram=wants_gram), settings["dim"])
        spectrum = build_spectrum(settings["method"], memo.features, projected=projected)
    write_spectrum(writer, spectrum)
    if not later:
        memo.clear()


def _gram(memo: Memo) -> Tensor:
    if memo.gram is None:
        assert memo.features is not None
        memo.gram = memo.features.full_gram()
    return memo.gram


def _projected(context: RunContext, step: Step, keep_gram: bool) -> Tensor:
    """Return the features at k_max; a Gaussian draw takes the Gram matrix, the other kinds project gradients."""
    memo, settings = context.memo, step.settings
    if memo.projected is None:
        assert memo.features is not None
        if settings["kind"] == "gaussian":
            gram = _gram(memo)
            if not keep_gram:
                memo.gram = None
            memo.projected = gaussian_from_gram(gram, settings["max_dim"], settings["draw"], overwrite=not keep_gram)
        else:
            projection = Projection(settings["kind"], settings["max_dim"], settings["draw"])
            factors = memo.features.factors
            memo.projected = (
                _projected_densely(context, step, projection)
                if factors is None
                else project_factors(factors, projection)
            )
    return memo.projected


def _projected_densely(context: RunContext, step: Step, projection: Projection) -> Tensor:
    """Project the gradients of a model that has no factors, parameter block by parameter block."""
    indices = {name: torch.from_numpy(values) for name, values in context.positions(step).items()}
    trained = context.store.open(step.inputs["train"][0])
    model = model_from(context.task, trained.tensors(f"epoch-{step.settings['epoch']:04d}"))
    requests = gradient_requests(context.task, indices["train"], indices["validation"], indices["queries"])
    return project_gradients(
        context.task, model, [(context.data[split], rows, quantity) for _, split, rows, quantity in requests],
        projection, device=context.device,
    )  # fmt: skip


def run_scores(context: RunContext, step: Step, writer: ArtifactWriter) -> None:
    """Score by TracIn over the chosen checkpoints."""
    context.memo.clear()
    rates = context.store.open(step.inputs["train"][0]).manifest["learning_rates"]
    features = [CheckpointFeatures.from_arrays(context.store.open(key).arrays()) for key in step.inputs["features"]]
    chosen: Sequence[float] = [float(rates[str(epoch)]) for epoch in step.settings["epochs"]]
    scores = tracin_scores(features, chosen, normalization=step.settings["normalization"])
    writer.array("scores", scores.values)


def run_evaluate(context: RunContext, step: Step, writer: ArtifactWriter) -> None:
    """Evaluate one configuration: LDS and ξ over λ, λ* with its baselines, top examples at λ*."""
    store, settings = context.store, step.settings
    queries = context.positions(step)["queries"]
    kind = store.open(step.inputs["sources"][0]).step
    source = read_source(store, kind, step.inputs["sources"])
    truth = {}
    for alpha in settings["alphas"]:
        keys = step.inputs.get(f"retrain {alpha:g}", ())
        if keys:
            truth[alpha] = (read_masks(store, keys), read_outputs(store, keys, queries))
    for name, table in evaluation_tables(source, settings, truth).items():
        writer.table(name, table)


STEPS: dict[str, Callable[[RunContext, Step, ArtifactWriter], None]] = {
    "examples": run_examples,
    "train": run_train,
    "retrain": run_retrain,
    "features": run_features,
    "spectrum": run_spectrum,
    "scores": run_scores,
    "evaluate": run_evaluate,
}
