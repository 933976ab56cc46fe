"""How rules that need no retraining choose the training epoch and the projection dimension, with λ chosen by ξ."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tda_backend.models.tasks.contract import built
from tda_backend.models.tasks.data import take
from tda_backend.models.training.fit import model_from
from tda_backend.models.training.outputs import evaluate
from tda_backend.numerics.evaluation.epoch_rules import epoch_choices, widest_projection
from tda_backend.studies.config.configuration import Configuration
from tda_backend.studies.pipeline.context import RunContext
from tda_backend.studies.pipeline.step import Step

PAPER_DIMENSION = 512
"""Projection dimension of the papers' defaults (METHODS §8)."""
EPOCH, DIMENSION = "training_epoch", "projection_dim"


@dataclass(frozen=True)
class Tuned:
    """A row of ``tuning``: what one rule chose among configurations that differ in one setting alone.

    LDS and regret are ``None`` without ground truth.
    """

    alpha: float
    what: str
    method: str
    among: str
    rule: str
    chosen: str
    configuration_id: str
    lds: float | None
    regret: float | None


def validation_losses(context: RunContext, trained: Step, validation: np.ndarray, seed: int) -> dict[int, float]:
    """Return the mean loss on the validation points of every stored checkpoint, and before training (epoch 0)."""
    task, batch = context.task, take(context.test_split, validation)
    artifact = context.open(trained)
    losses = {0: float(evaluate(task, built(task, seed), batch, context.device).loss.mean())}
    for name in sorted(artifact.files):
        if name.startswith("epoch-"):
            model = model_from(task, artifact.tensors(name.removesuffix(".safetensors")))
            losses[int(name[6:10])] = float(evaluate(task, model, batch, context.device).loss.mean())
    return losses


def has_choice(rows: Sequence[Configuration]) -> bool:
    """Return whether some otherwise equal configurations differ in epoch or dimension."""
    return any(len(group) > 1 for vary in (EPOCH, DIMENSION) for _, group in _groups(rows, vary))


def tuning_rows(
    rows: Sequence[Configuration], lds: Mapping[str, float] | None, losses: Mapping[int, float], alpha: float
) -> list[Tuned]:
    """Return what each rule chose among the epochs, and among the dimensions, of otherwise equal configurations.

    Regret is against the best of them, each at its own λ*.

    Args:
        rows: Configurations.
        lds: Configuration → LDS at λ*; ``None``: there is no ground truth.
        losses: Epoch → mean loss on the validation points; epoch 0 is before training.
        alpha: Of the ground truth.
    """
    found: list[Tuned] = []
    for among, group in _groups(rows, EPOCH):
        epochs = {row.training_epoch: row for row in group}
        if set(epochs) <= set(losses) and len(epochs) > 1:
            choices = epoch_choices(list(epochs), [losses[epoch] for epoch in epochs], losses[0])
            chosen = {rule: epochs[epoch] for rule, epoch in choices.items()}
            found += _judged(alpha, EPOCH, among, chosen, group, lds)
    for among, group in _groups(rows, DIMENSION):
        dimensions = {row.projection_dim: row for row in group}
        if len(dimensions) > 1:
            chosen = {"widest": dimensions[widest_projection(list(dimensions))]}
            if PAPER_DIMENSION in dimensions:
                chosen = {"default": dimensions[PAPER_DIMENSION], **chosen}
            found += _judged(alpha, DIMENSION, among, chosen, group, lds)
    return found


def _groups(rows: Sequence[Configuration], vary: str) -> Iterator[tuple[str, list[Configuration]]]:
    """Yield what the configurations that differ in one setting alone have in common, and these configurations."""
    groups: dict[str, list[Configuration]] = {}
    for row in rows:
        if not row.has_regularization:
            continue  # sums over epochs, and trajectories, have no single checkpoint
        parameters = {name: value for name, value in row.parameters.items() if name != "projection"}
        fixed = {"k": row.projection_dim} if vary == EPOCH else {"epoch": row.training_epoch}
        same = {"method": row.method, **fixed, **parameters}
        groups.setdefault(json.dumps(same, sort_keys=True), []).append(row)
    yield from groups.items()


_VALUE: Mapping[str, Callable[[Configuration], int | None]] = {
    EPOCH: lambda row: row.training_epoch,
    DIMENSION: lambda row: row.projection_dim,
}


def _judged(
    alpha: float,
    what: str,
    among: str,
    chosen: Mapping[str, Configuration],
    group: Sequence[Configuration],
    lds: Mapping[str, float] | None,
) -> Iterator[Tuned]:
    known = [] if lds is None else [value for row in group if np.isfinite(value := lds[row.configuration_id])]
    if lds is not None and not known:
        return
    for rule, row in chosen.items():
        value, mine = _VALUE[what](row), None if lds is None else lds[row.configuration_id]
        text = "none" if value is None else str(value)
        regret = None if mine is None else max(known) - mine
        yield Tuned(alpha, what, row.method, among, rule, text, row.configuration_id, mine, regret)
