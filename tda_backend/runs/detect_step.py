"""The step that finds mislabelled training examples by self-influence, at every λ."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from tda_backend.evaluation.detection import noisy_label_detection
from tda_backend.runs.context import RunContext
from tda_backend.runs.evaluate_step import bootstrap_seed, grid_and_selection
from tda_backend.runs.plan import Step
from tda_backend.runs.sources import read_configuration
from tda_backend.spectral.contraction import ScoreMatrix, self_influence
from tda_backend.store.artifacts import ArtifactWriter


def run_detect(context: RunContext, step: Step, writer: ArtifactWriter) -> None:
    """Store AUC and recall of finding the wrong labels by one configuration's self-influence, by λ and at λ*."""
    settings, store = step.settings, context.store
    flipped = np.zeros(len(context.positions(step)["train"]), dtype=bool)
    flipped[store.open(step.inputs["examples"][0]).array("noisy")] = True
    source = read_configuration(store, settings["row"], step.inputs["sources"])
    values: list[float | None] = [None]
    if isinstance(source, ScoreMatrix):
        parts = [store.open(key).array("self_influence") for key in step.inputs["sources"]]
        ranked = np.mean(parts, axis=0)[None]
    else:
        grid, chosen = grid_and_selection(source, settings["regularizations"], settings["threshold"])
        values = [*grid, chosen.regularization]
        ranked = self_influence(source, [*grid, chosen.regularization]).numpy()
    records = []
    for index, value in enumerate(values):
        found = noisy_label_detection(
            ranked[index], flipped, num_bootstrap=settings["bootstrap"], seed=bootstrap_seed(settings["seed"])
        )
        records.append({
            "regularization": value, "is_selected": len(values) > 1 and index == len(values) - 1,
            "auc": found.auc, "auc_low": found.auc_low, "auc_high": found.auc_high, "recall": found.recall,
            "recall_low": found.recall_low, "recall_high": found.recall_high, "num_flipped": found.num_flipped,
        })  # fmt: skip
        context.on_progress(index + 1, len(values))
    writer.table("noisy_labels", pa.Table.from_pylist(records, schema=_SCHEMA))


_SCHEMA = pa.schema([
    ("regularization", pa.float64()), ("is_selected", pa.bool_()), ("auc", pa.float64()), ("auc_low", pa.float64()),
    ("auc_high", pa.float64()), ("recall", pa.list_(pa.float32())), ("recall_low", pa.list_(pa.float32())),
    ("recall_high", pa.list_(pa.float32())), ("num_flipped", pa.int32()),
])  # fmt: skip
