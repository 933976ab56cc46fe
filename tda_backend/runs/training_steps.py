"""The steps that train: the attributed models, models of half the data, and retrained subsets."""

from __future__ import annotations

import numpy as np
import pandas as pd

from tda_backend.errors import DataError
from tda_backend.runs.context import RunContext
from tda_backend.runs.example_steps import label_text
from tda_backend.runs.plan import Step
from tda_backend.store.artifacts import ArtifactWriter
from tda_backend.training.checkpoints import load_checkpoints
from tda_backend.training.fit import evaluate, model_from, train
from tda_backend.training.retraining import retrain_subsets
from tda_backend.training.stages import attributed_rows
from tda_backend.training.subsets import subset_masks


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
        predicted = (
            [None] * count if says.prediction is None else [label_text(task, value) for value in says.prediction]
        )
        frame = pd.DataFrame({"split": split, "index": np.arange(count, dtype=np.int32)})
        frame["prediction"] = pd.array(predicted, dtype="str")
        frame["goodness"], frame["loss"] = says.goodness.numpy(), says.loss.numpy()
        parts.append(frame)
    writer.table("predictions", pd.concat(parts, ignore_index=True))


def run_train_half(context: RunContext, step: Step, writer: ArtifactWriter) -> None:
    """Train one model of TRAK's ensemble on a random half of the data (TRAK, arXiv 2303.14186, §3.2)."""
    settings = step.settings
    indices = context.positions(step)["train"]
    number = settings["subset"]
    drawn = attributed_rows(context.task, context.data["train"], indices)
    mask = subset_masks(len(indices), settings["alpha"], number + 1, settings["subset_seed"], drawn)[number]
    for checkpoint in train(
        context.task, context.data["train"], indices[mask], settings["seed"], settings["epochs"], context.device,
        context.on_progress,
    ):  # fmt: skip
        writer.tensors(f"epoch-{checkpoint.epoch:04d}", checkpoint.state)
    writer.array("mask", mask)


def run_retrain(context: RunContext, step: Step, writer: ArtifactWriter) -> None:
    """Retrain a chunk of random subsets; store goodness on the whole test set."""
    settings = step.settings
    train_indices = context.positions(step)["train"]
    drawn = attributed_rows(context.task, context.data["train"], train_indices)
    masks = subset_masks(len(train_indices), settings["alpha"], settings["last"], settings["seed"], drawn)
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
