"""The steps of leave-one-out: which examples to take out, retraining without each, and how well scores foretold it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from tda_backend.evaluation.leave_one_out import (
    LeaveOneOutEffects,
    leave_one_out_agreement,
    leave_one_out_effects,
)
from tda_backend.runs.context import RunContext
from tda_backend.runs.evaluate_step import bootstrap_seed, grid_and_selection
from tda_backend.runs.plan import Step
from tda_backend.runs.removal_steps import chosen_regularization, retrain_without
from tda_backend.runs.sources import read_configuration
from tda_backend.seeds import hashed_rng
from tda_backend.spectral.contraction import ScoreMatrix, num_queries, scores, subset_sums
from tda_backend.store.artifacts import ArtifactWriter

_SCORED_AT_ONCE = 128


def run_loo_choice(context: RunContext, step: Step, writer: ArtifactWriter) -> None:
    """Choose the training examples to leave out: random ones, or the most influential of several methods in turn."""
    settings = step.settings
    num_train = len(context.positions(step)["train"])
    if settings["choice"] == "random":
        chosen = hashed_rng("loo", settings["seed"]).permutation(num_train)[: settings["examples"]]
    else:
        orders = []
        for number, (selector, row) in enumerate(zip(settings["selectors"], settings["rows"], strict=True)):
            source = read_configuration(context.store, row, step.inputs[f"sources {number}"])
            value = chosen_regularization(context, step, selector, source, f"evaluate {number}")
            total = np.zeros(num_train)
            everyone = list(range(num_queries(source)))
            for start in range(0, len(everyone), _SCORED_AT_ONCE):
                total += np.abs(scores(source, value, everyone[start : start + _SCORED_AT_ONCE])).sum(0)
            orders.append(np.argsort(-total, kind="stable"))
        chosen = in_turn(orders, settings["examples"])
    writer.array("positions", np.asarray(chosen, dtype=np.int32))


def in_turn(orders: list[np.ndarray], num: int) -> np.ndarray:
    """Return the first ``num`` different positions when every order gives its next one in turn."""
    return np.array(list(dict.fromkeys(int(value) for values in zip(*orders, strict=True) for value in values))[:num])


def run_loo(context: RunContext, step: Step, writer: ArtifactWriter) -> None:
    """Retrain without each of some examples, with the base's seeds; store the queries' goodness ``[c, R, m]``."""
    settings, indices = step.settings, context.positions(step)
    chosen = context.store.open(step.inputs["choice"][0]).array("positions")[settings["first"] : settings["last"]]
    values = retrain_without(
        context, step, indices["train"], [np.array([position]) for position in chosen], indices["queries"]
    )
    writer.array("positions", chosen)
    writer.array("goodness", np.ascontiguousarray(values[..., 0]))
    base = context.store.open(step.inputs["base"][0]).array("goodness")[:, indices["queries"]]
    found = leave_one_out_effects(base, values[..., 0])
    writer.table("loo_effects", pa.table({
        "position": pa.array(chosen, pa.int32()),
        "num_seeds": pa.array([settings["seeds"]] * len(chosen), pa.int32()),
        "effects": pa.array(list(found.effects.astype(np.float32)), pa.list_(pa.float32())),
        "standard_errors": pa.array(list(found.standard_errors.astype(np.float32)), pa.list_(pa.float32())),
    }))  # fmt: skip


def read_effects(context: RunContext, step: Step) -> tuple[np.ndarray, LeaveOneOutEffects]:
    """Return the positions left out, ``[c]``, and what that did, from all finished chunks."""
    queries = context.positions(step)["queries"]
    parts = [context.store.open(key) for key in step.inputs["loo"]]
    base = context.store.open(step.inputs["base"][0]).array("goodness")[:, queries]
    removed = np.concatenate([part.array("goodness") for part in parts])
    return np.concatenate([part.array("positions") for part in parts]), leave_one_out_effects(base, removed)


def run_loo_scores(context: RunContext, step: Step, writer: ArtifactWriter) -> None:
    """Correlate one configuration's scores with the measured effects, at every λ of the grid and at λ*."""
    settings = step.settings
    positions, found = read_effects(context, step)
    source = read_configuration(context.store, settings["row"], step.inputs["sources"])
    values: list[float] | None = None
    if not isinstance(source, ScoreMatrix):
        grid, chosen = grid_and_selection(source, settings["regularizations"], settings["threshold"])
        values = [*grid, chosen.regularization]
    only = np.zeros((len(positions), len(context.positions(step)["train"])))
    only[np.arange(len(positions)), positions] = 1.0
    predicted = subset_sums(source, only, values).numpy()  # [L, c, m]
    records = []
    for index, value in enumerate([None] if values is None else values):
        result = leave_one_out_agreement(
            predicted[index].T, found, num_bootstrap=settings["bootstrap"], seed=bootstrap_seed(settings["seed"])
        )
        own = result.spearman_per_query
        records.append({
            "regularization": value, "mean": own.mean, "ci_low": own.ci_low, "ci_high": own.ci_high,
            "per_example": result.spearman_per_example.mean, "ceiling": result.ceiling,
            "num_undefined": int(np.isnan(own.values).sum()), "num_examples": len(positions),
            "is_selected": values is not None and index == len(values) - 1,
        })  # fmt: skip
        context.on_progress(index + 1, len(predicted))
    writer.table("loo_scores", pa.Table.from_pylist(records, schema=_SCORES_SCHEMA))


_SCORES_SCHEMA = pa.schema([
    ("regularization", pa.float64()), ("mean", pa.float64()), ("ci_low", pa.float64()), ("ci_high", pa.float64()),
    ("per_example", pa.float64()), ("ceiling", pa.float64()), ("num_undefined", pa.int32()),
    ("num_examples", pa.int32()), ("is_selected", pa.bool_()),
])  # fmt: skip
