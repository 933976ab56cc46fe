"""How rules that need no retraining choose the training epoch and the projection dimension, with λ chosen by ξ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tda_backend.evaluation.epoch_rules import epoch_choices, widest_projection
from tda_backend.runs.context import RunContext
from tda_backend.training.data import take
from tda_backend.training.fit import evaluate, model_from

Row = Mapping[str, Any]
PAPER_DIMENSION = 512
"""Projection dimension of the papers' defaults (METHODS §8)."""
COLUMNS = ("alpha", "what", "method", "among", "rule", "chosen", "configuration_id", "lds", "regret")


def validation_losses(context: RunContext, trained: str, validation: np.ndarray, seed: int) -> dict[int, float]:
    """Return the mean loss on the validation points of every stored checkpoint, and before training (epoch 0)."""
    task, batch = context.task, take(context.data["test"], validation)
    artifact = context.store.open(trained)
    losses = {0: float(evaluate(task, task.build_model(seed), batch).loss.mean())}
    for name in sorted(artifact.manifest["files"]):
        if name.startswith("epoch-"):
            model = model_from(task, artifact.tensors(name.removesuffix(".safetensors")))
            losses[int(name[6:10])] = float(evaluate(task, model, batch).loss.mean())
    return losses


def tuning_rows(rows: Sequence[Row], lds: Mapping[str, float], losses: Mapping[int, float], alpha: float) -> list[dict]:
    """Return what each rule chose among the epochs, and among the dimensions, of otherwise equal configurations.

    Regret is against the best of them, each at its own λ*.

    Args:
        rows: Configurations.
        lds: Configuration → LDS at λ*.
        losses: Epoch → mean loss on the validation points; epoch 0 is before training.
        alpha: Of the ground truth.
    """
    found: list[dict] = []
    for among, group in _groups(rows, "training_epoch"):
        epochs = {row["training_epoch"]: row for row in group}
        if set(epochs) <= set(losses) and len(epochs) > 1:
            choices = epoch_choices(list(epochs), [losses[epoch] for epoch in epochs], losses[0])
            found += _judged(
                "training_epoch", among, {rule: epochs[epoch] for rule, epoch in choices.items()}, group, lds
            )
    for among, group in _groups(rows, "projection_dim"):
        dimensions = {row["projection_dim"]: row for row in group}
        if len(dimensions) > 1:
            chosen = {"widest": dimensions[widest_projection(list(dimensions))]}
            if PAPER_DIMENSION in dimensions:
                chosen = {"default": dimensions[PAPER_DIMENSION], **chosen}
            found += _judged("projection_dim", among, chosen, group, lds)
    return [{"alpha": alpha, **row} for row in found]


def _groups(rows: Sequence[Row], vary: str) -> Iterator[tuple[str, list[Row]]]:
    """Yield what the configurations that differ in one setting alone have in common, and these configurations."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if not row["has_regularization"]:
            continue  # sums over epochs, and trajectories, have no single checkpoint
        parameters = {name: value for name, value in row["parameters"].items() if name != "projection"}
        same = {"method": row["method"], "epoch": row["training_epoch"], "k": row["projection_dim"], **parameters}
        same.pop("epoch" if vary == "training_epoch" else "k")
        groups.setdefault(json.dumps(same, sort_keys=True), []).append(row)
    yield from groups.items()


def _judged(what: str, among: str, chosen: Mapping[str, Row], group: Sequence[Row], lds: Mapping[str, float]) -> list:
    known = [lds[row["configuration_id"]] for row in group if np.isfinite(lds[row["configuration_id"]])]
    if not known:
        return []
    rows = []
    for rule, row in chosen.items():
        value = row[what]
        mine = lds[row["configuration_id"]]
        rows.append({
            "what": what, "method": row["method"], "among": among, "rule": rule,
            "chosen": "none" if value is None else str(value), "configuration_id": row["configuration_id"],
            "lds": mine, "regret": max(known) - mine,
        })  # fmt: skip
    return rows
