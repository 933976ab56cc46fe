"""The steps of subset removal: retrain on everything, choose what to remove, retrain without it, size by size.

A removal reads the result of the size before it: a query that has flipped is not retrained again, and a run that was
killed goes on at the size that was not finished. Every retraining takes the same seeds (SOURCE, arXiv 2405.12186, B.3).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from tda_backend.errors import DataError
from tda_backend.evaluation.brittleness import next_brittleness
from tda_backend.evaluation.removal import (
    always_correct,
    choose_queries,
    is_flipped,
    next_removals,
    removal_masks,
    removal_order,
    same_class_order,
)
from tda_backend.evaluation.selection import spectrum_quantiles
from tda_backend.runs.context import RunContext
from tda_backend.runs.evaluate_step import grid_and_selection
from tda_backend.runs.plan import Step
from tda_backend.runs.selectors import regularization_of
from tda_backend.runs.sources import read_configuration
from tda_backend.seeds import hashed_seed
from tda_backend.spectral.contraction import ScoreMatrix, Source, scores
from tda_backend.store.artifacts import ArtifactWriter
from tda_backend.training.data import take
from tda_backend.training.fit import evaluate
from tda_backend.training.retraining import retrain_subsets
from tda_backend.types import Batch, Task

SUBSET_ID = 0
"""The same for every counterfactual: a subset's number decides its training seeds, and these are to be compared."""
NOTHING = -1
"""Fills up the rows of queries that have fewer examples to remove."""


def goodness_and_correctness(task: Task, model: nn.Module, batch: Batch) -> Tensor:
    """Return each example's goodness, and 1 or 0 for right or wrong (NaN where there are no classes), ``[N, 2]``."""
    says = evaluate(task, model, batch)
    if task.num_classes is None or says.prediction is None:
        correct = torch.full_like(says.goodness, float("nan"))
    else:
        correct = (says.prediction == batch[task.label_key].cpu()).float()
    return torch.stack([says.goodness, correct], dim=1)


def retrain_without(
    context: RunContext, step: Step, train_indices: np.ndarray, left_out: list[np.ndarray], test_rows: np.ndarray
) -> np.ndarray:
    """Retrain without some training positions, each with the same seeds.

    Args:
        context: Task and data.
        step: Its settings have ``seeds`` (R) and the study's ``seed``.
        train_indices: The study's training rows, ``[n]``.
        left_out: c lists of training positions.
        test_rows: Rows of the test split that are read, ``[r]``.

    Returns:
        float32 ``[c, R, r, 2]``: goodness and correctness.

    Raises:
        DataError: A goodness is not finite.
    """
    masks = removal_masks(left_out, [len(positions) for positions in left_out], len(train_indices))
    chosen = take(context.data["test"], torch.from_numpy(np.asarray(test_rows, dtype=np.int64)))
    values = retrain_subsets(
        context.task, context.data, train_indices, masks, [SUBSET_ID] * len(masks), repeats=step.settings["seeds"],
        seed=hashed_seed("counterfactual", step.settings["seed"]), device=context.device,
        on_progress=context.on_progress,
        read=lambda task, model, _: goodness_and_correctness(task, model, chosen),
    )  # fmt: skip
    if not np.isfinite(values[..., 0]).all():
        raise DataError(
            f"{int((~np.isfinite(values[..., 0])).sum())} outputs of counterfactually retrained models are not finite.",
            "Training diverges without some examples: lower the learning rate.",
        )
    return values


def run_base(context: RunContext, step: Step, writer: ArtifactWriter) -> None:
    """Retrain on all training examples; store goodness and correctness of the whole test split, ``[R, N]``."""
    indices = context.positions(step)["train"]
    everything = np.arange(len(context.data["test"][context.task.label_key]))
    (values,) = retrain_without(context, step, indices, [np.empty(0, int)], everything)
    writer.array("goodness", np.ascontiguousarray(values[..., 0]))
    writer.array("correct", np.ascontiguousarray(values[..., 1]))


def run_removal_order(context: RunContext, step: Step, writer: ArtifactWriter) -> None:
    """Choose the queries and, for each, which training positions to remove first: the most helpful, or random ones.

    Stores their rows of ``removals`` with nothing removed: what the base models say.

    Raises:
        DataError: No query is predicted right by every base model.
    """
    settings, store, task = step.settings, context.store, context.task
    indices = context.positions(step)
    base = store.open(step.inputs["base"][0])
    correct, goodness = (base.array(name)[:, indices["queries"]] for name in ("correct", "goodness"))
    labels = context.data["test"][task.label_key][indices["queries"]] if task.num_classes is not None else None
    candidates = always_correct(np.isnan(correct) | (correct == 1))
    queries = choose_queries(
        candidates, max(1, min(settings["queries"], int(candidates.sum()))), settings["seed"],
        None if labels is None else labels.numpy(),
    )  # fmt: skip
    regularization = None
    if settings["selector"] is None:
        orders = [_random_order(context, indices["train"], labels, int(query), settings["seed"]) for query in queries]
    else:
        source = read_configuration(store, settings["row"], step.inputs["sources"])
        regularization = chosen_regularization(context, step, settings["selector"], source)
        orders = [removal_order(row) for row in scores(source, regularization, queries.tolist())]
    positions = np.full((len(queries), max(1, *map(len, orders))), NOTHING, dtype=np.int32)
    for row, order in zip(positions, orders, strict=True):
        row[: len(order)] = order
    writer.array("queries", queries.astype(np.int32))
    writer.array("positions", positions)
    writer.facts["regularization"] = regularization
    rows = [
        {"query": int(query), "size": 0, "num_seeds": len(correct), "mean_correct": correct[:, query].mean(),
         "mean_goodness": goodness[:, query].mean(dtype=np.float64), "flipped": False}
        for query in queries
    ]  # fmt: skip
    available = dict(zip(queries, _available(positions), strict=True))
    writer.table("removals", _removal_table(rows, regularization, available))


def _random_order(
    context: RunContext, train_indices: np.ndarray, query_labels: Tensor | None, query: int, seed: int
) -> np.ndarray:
    """Return random training positions of the query's class (any, where there are no classes)."""
    if query_labels is None:
        return same_class_order(np.zeros(len(train_indices)), 0, query, seed)
    labels = context.data["train"][context.task.label_key].cpu().numpy()[train_indices]
    return same_class_order(labels, int(query_labels[query]), query, seed)


def _available(positions: np.ndarray) -> np.ndarray:
    return (positions != NOTHING).sum(axis=1)


def chosen_regularization(
    context: RunContext, step: Step, selector: Mapping[str, Any], source: Source, role: str = "evaluate"
) -> float | None:
    """Return the λ that a selector means; λ* is found anew, so that more retrained subsets change nothing.

    Args:
        context: The store.
        step: Its settings have ``regularizations``, ``threshold`` and ``quantiles``.
        selector: From the study file.
        source: Of the configuration.
        role: The input with the configuration's evaluation, for ``best``.
    """
    if isinstance(source, ScoreMatrix):
        return None
    wanted, settings = selector.get("regularization", "selected"), step.settings
    selection: dict[str, Any] | None = None
    lds: list[dict[str, Any]] = []
    quantiles: dict[str, float] = {}
    if wanted == "selected":
        _, chosen = grid_and_selection(source, settings["regularizations"], settings["threshold"])
        selection = {"lambda_selected": chosen.regularization}
    elif wanted == "best":
        frame = context.store.open(step.inputs[role][0]).table("lds").to_pandas()
        mine = frame.loc[frame["alpha"] == selector["alpha"]]
        lds = [{"regularization": v, "mean": m} for v, m in zip(mine["regularization"], mine["mean"], strict=True)]
    elif str(wanted).startswith("quantile"):
        quantiles = {f"{q:g}": value for q, value in spectrum_quantiles(source, settings["quantiles"]).items()}
    return regularization_of(selector, selection, lds, quantiles)


def run_removal(context: RunContext, step: Step, writer: ArtifactWriter) -> None:
    """Retrain without the first k of every query that has not flipped yet, or in the middle between its last two sizes.

    Stores the rows of ``removals`` and all results so far: query, number removed, mean correctness.
    """
    settings, store = step.settings, context.store
    indices, order = context.positions(step), store.open(step.inputs["order"][0])
    queries, positions = order.array("queries").astype(np.int64), order.array("positions")
    available = _available(positions)
    results: dict[tuple[int, int], float] = {}
    if "previous" in step.inputs:
        earlier = store.open(step.inputs["previous"][0]).array("results")
        results = {(int(query), int(size)): float(value) for query, size, value in earlier}
    following = next_removals if settings["bisection"] is None else next_brittleness
    wanted = following(results, queries.tolist(), settings["sizes"], available.tolist())
    place = {int(query): number for number, query in enumerate(queries)}
    records: list[dict[str, Any]] = []
    if wanted:
        left_out = [positions[place[query], :size] for query, size in wanted]
        rows = indices["queries"][[query for query, _ in wanted]]
        values = retrain_without(context, step, indices["train"], left_out, rows).astype(np.float64)
        for number, (query, size) in enumerate(wanted):
            goodness, correct = values[number, :, number].T
            # Where nothing is right or wrong nothing can flip: the goodness is what is looked at.
            results[query, size] = 1.0 if np.isnan(correct).any() else float(correct.mean())
            records.append({
                "query": query, "size": size, "num_seeds": settings["seeds"], "mean_correct": correct.mean(),
                "mean_goodness": goodness.mean(), "flipped": is_flipped(results[query, size]),
            })  # fmt: skip
    table = _removal_table(records, order.manifest["regularization"], dict(zip(queries, available, strict=True)))
    writer.table("removals", table)
    writer.array("results", np.array([[*key, value] for key, value in results.items()], float).reshape(-1, 3))


def _removal_table(
    records: list[dict[str, Any]], regularization: float | None, available: Mapping[int, int]
) -> pa.Table:
    rows = [{**row, "regularization": regularization, "available": int(available[row["query"]])} for row in records]
    for row in rows:
        row["mean_correct"] = None if np.isnan(row["mean_correct"]) else float(row["mean_correct"])
    return pa.Table.from_pylist(rows, schema=_REMOVAL_SCHEMA)


_REMOVAL_SCHEMA = pa.schema([
    ("query", pa.int32()), ("size", pa.int32()), ("available", pa.int32()), ("num_seeds", pa.int32()),
    ("mean_correct", pa.float64()), ("mean_goodness", pa.float64()), ("flipped", pa.bool_()),
    ("regularization", pa.float64()),
])  # fmt: skip
