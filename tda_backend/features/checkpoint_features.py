"""What is taken from the model at one checkpoint, once, and shared by every method, projection and λ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from tda_backend.errors import ArtifactError, NumericalError, TaskError
from tda_backend.features.dense import dense_gram
from tda_backend.features.factors import (
    GradientFactors,
    LayerFactors,
    concatenate,
    linear_factors,
    untracked_parameters,
)
from tda_backend.features.gram import gram_matrix
from tda_backend.features.streaming import Quantity, batches, evaluation_mode, values_of
from tda_backend.types import Batch, Task

GROUPS = ("train", "validation", "query", "train_loss")


@dataclass(frozen=True)
class CheckpointFeatures:
    """Gradients of goodness at one checkpoint for train, validation and query examples, in this row order.

    For a classification margin ``∇ℓ_i = loss_scale_i·∇goodness_i`` (METHODS §0), so loss gradients need no rows of
    their own; otherwise n rows of loss gradients follow at the end.

    Attributes:
        counts: Rows per group: ``train``, ``validation``, ``query`` and, without the margin identity, ``train_loss``.
        goodness: ``[train + validation + query]`` goodness of each example.
        train_loss: ``[n]`` training loss of the train examples.
        factors: Rank-one factors of all N rows, or ``None`` for models with other layers.
        gram: ``[N, N]`` float64 raw inner products where there are no factors.
        margin_identity: Whether ``loss_scale`` and ``train_weights`` exist.
    """

    counts: Mapping[str, int]
    goodness: Tensor
    train_loss: Tensor
    factors: GradientFactors | None
    gram: Tensor | None
    margin_identity: bool

    @property
    def num_train(self) -> int:
        return self.counts["train"]

    @property
    def num_vectors(self) -> int:
        return sum(self.counts.values())

    @property
    def train_weights(self) -> Tensor | None:
        """Q_i = 1 − p_i = sigmoid(−goodness_i), ``[n]``; ``None`` without the margin identity."""
        return torch.sigmoid(-self.goodness[: self.num_train]) if self.margin_identity else None

    @property
    def loss_scale(self) -> Tensor | None:
        """−(1 − p_i), with ``∇ℓ_i = loss_scale_i·∇goodness_i``, ``[n]``; ``None`` without the margin identity."""
        weights = self.train_weights
        return None if weights is None else -weights

    def rows(self, group: str) -> slice:
        """Return the rows of a group."""
        start = 0
        for name in GROUPS:
            size = self.counts.get(name, 0)
            if name == group:
                return slice(start, start + size)
            start += size
        raise KeyError(group)

    def full_gram(self) -> Tensor:
        """Return all raw inner products, ``[N, N]`` float64; a copy that may be destroyed."""
        if self.factors is not None:
            return gram_matrix(self.factors)
        assert self.gram is not None
        return self.gram.to(torch.float64, copy=True)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return everything as NumPy arrays for storing."""
        arrays = {
            "goodness": self.goodness.numpy(),
            "train_loss": self.train_loss.numpy(),
            "margin_identity": np.array(self.margin_identity),
            "counts": np.array([self.counts.get(name, 0) for name in GROUPS], dtype=np.int64),
        }
        if self.gram is not None:
            arrays["gram"] = self.gram.numpy()
        if self.factors is not None:
            arrays["layers"] = np.array([layer.name for layer in self.factors.layers], dtype=np.str_)
            for index, layer in enumerate(self.factors.layers):
                arrays[f"inputs.{index}"] = layer.inputs.numpy()
                arrays[f"deltas.{index}"] = layer.deltas.numpy()
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> CheckpointFeatures:
        """Return the features stored by :meth:`to_arrays`.

        Raises:
            ArtifactError: An array is missing, or the rows do not add up.
        """
        try:
            counts = {n: int(c) for n, c in zip(GROUPS, arrays["counts"], strict=True) if c or n != "train_loss"}
            factors = None
            if "layers" in arrays:
                factors = GradientFactors(
                    tuple(
                        LayerFactors(str(name), _tensor(arrays[f"inputs.{i}"]), _tensor(arrays[f"deltas.{i}"]))
                        for i, name in enumerate(arrays["layers"])
                    )
                )
            gram = _tensor(arrays["gram"]) if "gram" in arrays else None
            result = cls(
                counts,
                _tensor(arrays["goodness"]),
                _tensor(arrays["train_loss"]),
                factors,
                gram,
                bool(arrays["margin_identity"]),
            )
        except KeyError as error:
            raise ArtifactError(f"Stored features lack the array {error}.", "Remove the artifact; rerun.") from error
        present = factors.num_vectors if factors is not None else (0 if gram is None else gram.shape[0])
        if present != result.num_vectors:
            raise ArtifactError(
                f"Stored features hold {present} rows where {result.num_vectors} belong.", "Remove the artifact; rerun."
            )
        return result


def _tensor(array: np.ndarray) -> Tensor:
    # A memory map opened for reading is not writable; torch would warn about it, so such arrays are copied.
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def gradient_requests(
    task: Task,
    train_indices: Sequence[int] | Tensor,
    validation_indices: Sequence[int] | Tensor,
    query_indices: Sequence[int] | Tensor,
) -> list[tuple[str, str, Sequence[int] | Tensor, Quantity]]:
    """Return which gradients are taken, in row order: (group, split, indices, quantity)."""
    requests: list[tuple[str, str, Sequence[int] | Tensor, Quantity]] = [
        ("train", "train", train_indices, "goodness"),
        ("validation", "test", validation_indices, "goodness"),
        ("query", "test", query_indices, "goodness"),
    ]
    if not task.margin_identity:
        requests.append(("train_loss", "train", train_indices, "train_loss"))
    return requests


def checkpoint_features(
    task: Task,
    model: nn.Module,
    data: Mapping[str, Batch],
    train_indices: Sequence[int] | Tensor,
    validation_indices: Sequence[int] | Tensor,
    query_indices: Sequence[int] | Tensor,
    device: torch.device | str = "cpu",
    batch_size: int = 512,
) -> CheckpointFeatures:
    """Take the gradients of goodness (and, where needed, of the loss) at one checkpoint.

    Models made of plain Linear layers keep rank-one factors; any other model falls back to dense per-example
    gradients, streamed by parameter block, of which only the Gram matrix is kept.

    Args:
        task: Measurement, its sign, loss and whether the margin identity holds.
        model: At the checkpoint; used in eval mode.
        data: ``train`` and ``test`` splits.
        train_indices: Rows of the train split, n.
        validation_indices: Rows of the test split for ξ.
        query_indices: Rows of the test split to attribute.
        device: Where the passes run.
        batch_size: Examples per pass.

    Raises:
        NumericalError: Goodness, loss or a gradient is not finite; names the group, the count and the first row.
        TaskError: The task breaks its contract.
    """
    if task.margin_identity and task.measurement_sign != 1:
        raise TaskError(
            f"Task {task.name!r} states the margin identity with measurement_sign {task.measurement_sign}.",
            "The identity holds for the classification margin, which is better when larger: use +1.",
        )
    requests = gradient_requests(task, train_indices, validation_indices, query_indices)
    counts = {group: len(torch.as_tensor(indices)) for group, _, indices, _ in requests}
    if min(counts.values()) == 0:
        empty = next(group for group, count in counts.items() if count == 0)
        raise TaskError(f"There are no {empty} examples.", "Give at least one index for each group.")
    goodness = []
    for group, split, indices, _ in requests[:3]:
        goodness.append(_values(task, model, data[split], indices, "goodness", group, device, batch_size))
    train_loss = _values(task, model, data["train"], train_indices, "train_loss", "train", device, batch_size)
    factors, gram = None, None
    if not untracked_parameters(model):
        parts = []
        for group, split, indices, quantity in requests:
            try:
                parts.append(linear_factors(task, model, data[split], indices, quantity, batch_size, device)[0])
            except NumericalError as error:
                raise NumericalError(f"In the {group} examples: {error.message}", error.hint) from error
        factors = concatenate(parts)
    else:
        gram = dense_gram(task, model, [(data[s], i, q) for _, s, i, q in requests], device=device)
    return CheckpointFeatures(counts, torch.cat(goodness), train_loss, factors, gram, task.margin_identity)


def _values(
    task: Task,
    model: nn.Module,
    data: Batch,
    indices: Sequence[int] | Tensor,
    quantity: Quantity,
    group: str,
    device: torch.device | str,
    batch_size: int,
) -> Tensor:
    model.to(device)
    with evaluation_mode(model), torch.no_grad():
        stream = batches(data, indices, batch_size, device)
        values = torch.cat([values_of(task, model, batch, quantity).cpu() for _, batch in stream])
    bad = ~torch.isfinite(values)
    if bool(bad.any()):
        first = int(bad.nonzero()[0])
        raise NumericalError(
            f"The {quantity} of {int(bad.sum())} of {len(values)} {group} examples is not finite "
            f"(first at index {int(torch.as_tensor(indices)[first])}).",
            "Look for NaN in the data, or for a training run that diverged.",
        )
    return values
