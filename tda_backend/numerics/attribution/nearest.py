"""Nearest inputs: closeness in the space of the data, with no model at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from tda_backend.errors import NumericalError, UsageError
from tda_backend.models.probe import Indices
from tda_backend.numerics.attribution.representation import unit_rows
from tda_backend.numerics.spectral.contraction import ScoreMatrix
from tda_backend.types import Batch, Task

Metric: TypeAlias = Literal["euclidean", "cosine"]
METRICS: tuple[Metric, ...] = ("euclidean", "cosine")


@dataclass(frozen=True)
class InputMeasure:
    """How the closeness of two inputs is measured.

    ``euclidean``: −‖x' − x_i‖, or signed ±exp(−‖x' − x_i‖²/2h²) with h² the mean squared distance (a distance has no
    zero to take a sign about; the kernel has). ``cosine``: cos(x', x_i), or signed ±cos.

    Sign: unsigned, close helps, whatever its label. Signed, an example of the query's own class helps and one of
    another class hurts, the more the closer: the representer value α_i·K(x_i, x') with the sign of α_i only
    (arXiv 1811.09720), and for ``cosine`` the gradient product of a linear model before training.

    Attributes:
        metric: ``euclidean`` or ``cosine``.
        signed: Whether classes decide the sign.
        standardize: Subtract the mean and divide by the standard deviation of every input over the train rows
            (constant inputs are only centred).
        input_key: Key of the inputs in a batch; ``None`` for the task's own ``input_key``, or where only one entry is
            floating-point.
    """

    metric: Metric = "euclidean"
    signed: bool = False
    standardize: bool = True
    input_key: str | None = None

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise UsageError(f"Unknown metric {self.metric!r}.", f"Allowed: {', '.join(METRICS)}.")

    def closeness(self, query: Tensor, train: Tensor) -> Tensor:
        """Return the closeness without sign, ``[m, n]``; rows are ``[·, d]`` float64."""
        if self.metric == "cosine":
            return unit_rows(query) @ unit_rows(train).T
        # Through a matrix product a duplicate would be 1e-7 away from itself.
        distances = torch.cdist(query, train, compute_mode="donot_use_mm_for_euclid_dist")
        if not self.signed:
            return -distances
        width = float(distances.square().mean())
        return torch.exp(-distances.square() / (2 * width)) if width > 0 else torch.ones_like(distances)


def nearest_inputs(
    task: Task,
    data: Mapping[str, Batch],
    train: Indices,
    query: Indices,
    measure: InputMeasure | None = None,
    device: torch.device | str = "cpu",
) -> ScoreMatrix:
    """Return how close each train input is to each query's.

    Args:
        task: Names the label's key.
        data: ``train`` and ``test`` splits.
        train: Rows of the train split, n.
        query: Rows of the test split, m.
        measure: Of closeness; ``None`` for the Euclidean distance of standardised inputs.
        device: Where to compare.

    Returns:
        Values ``[m, n]`` in the inputs' dtype.

    Raises:
        UsageError: No such key, or several could be meant; inputs that are not floating-point; ``signed`` without
            integer labels.
        NumericalError: An input is not finite.
    """
    measure = InputMeasure() if measure is None else measure
    key = _input_key(task, data["train"], measure.input_key)
    chosen = {"train": torch.as_tensor(train, dtype=torch.long), "test": torch.as_tensor(query, dtype=torch.long)}
    sides = [data[split][key][rows].flatten(1).to(device, torch.float64) for split, rows in chosen.items()]
    for group, values in zip(("train", "query"), sides, strict=True):
        bad = ~torch.isfinite(values).all(1)
        if bool(bad.any()):
            raise NumericalError(
                f"{int(bad.sum())} {group} inputs are not finite (first at position {int(bad.nonzero()[0])}).",
                "Look for NaN in the data.",
            )
    if measure.standardize:
        mean, deviation = sides[0].mean(0), sides[0].std(0, correction=0)
        # Rounding leaves a constant input with a deviation of ε·|mean|; dividing by it would make noise of it.
        spread = torch.where(deviation > 1e-12 * mean.abs(), deviation, torch.ones_like(deviation))
        sides = [(values - mean) / spread for values in sides]
    scores = measure.closeness(sides[1], sides[0])
    if measure.signed:
        own, others = (_labels(task, data[split], rows).to(device) for split, rows in chosen.items())
        scores = torch.where(others[:, None] == own, scores, -scores)
    return ScoreMatrix(scores.to(data["train"][key].dtype))


def _input_key(task: Task, batch: Batch, input_key: str | None) -> str:
    if input_key is None:
        input_key = getattr(task, "input_key", None)
    floating = [key for key, value in batch.items() if value.is_floating_point() and key != task.label_key]
    if input_key is None and len(floating) != 1:
        raise UsageError(
            f"The inputs of task {task.name!r} are not clear: {len(floating)} entries are floating-point "
            f"({', '.join(floating) or 'tokens have no distance'}).",
            f"Give input_key, one of {', '.join(floating)}." if floating else "Use RepSim for such inputs.",
        )
    key = floating[0] if input_key is None else input_key
    if key not in batch or not batch[key].is_floating_point():
        raise UsageError(f"A batch has no floating-point entry {key!r}.", f"Allowed: {', '.join(floating) or 'none'}.")
    return key


def _labels(task: Task, batch: Batch, rows: Tensor) -> Tensor:
    values = batch.get(task.label_key)
    if values is None or values.is_floating_point() or values.ndim != 1:
        raise UsageError(
            f"Signed nearest inputs need one class per example; task {task.name!r} has none under {task.label_key!r}.",
            "Use signed = false.",
        )
    return values[rows]
