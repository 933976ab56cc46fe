"""What is taken from the model at one checkpoint, once, and shared by every method, projection and λ."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from tda_backend.errors import ArtifactError, NumericalError, TaskError, UsageError
from tda_backend.models.probe import GROUPS, Group, Probe
from tda_backend.numerics.features.dense import BUDGET_NUMBERS, Request, dense_gram
from tda_backend.numerics.features.factors import (
    GradientFactors,
    LayerFactors,
    joined_factors,
    untracked_parameters,
)
from tda_backend.numerics.features.gram import gram_matrix, inner_products
from tda_backend.numerics.features.products import dense_products
from tda_backend.numerics.features.streaming import Quantity, evaluation_mode, over_batches, values_of
from tda_backend.numerics.spectral.arrays import stored_tensor
from tda_backend.types import Task

_INNER_PRODUCTS = ("gram", "products", "squares")
ROW_GROUPS = (*GROUPS, "train_loss")
"""Groups of rows in their order; gradients of the training loss come last, where they have rows of their own."""


class InnerProducts(enum.IntEnum):
    """Which inner products of gradients are taken of a model without rank-one factors."""

    NONE = 0
    """None: its gradients are projected."""
    QUERIES = 1
    """Of the queries with the training losses, and every gradient's own: what scores without curvature need."""
    ALL = 2
    """Of all with all: what the exact answer and draws from the Gram matrix need."""


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
        gram: ``[N, N]`` float64 raw inner products where there are no factors, and they are asked for.
        margin_identity: Whether ``loss_scale`` and ``train_weights`` exist.
        products: ``[m, n]`` float64 raw inner products of the queries with ``loss_rows``, where these alone are asked
            for.
        squares: ``[N]`` float64 squared norms, with ``products``.
    """

    counts: Mapping[str, int]
    goodness: Tensor
    train_loss: Tensor
    factors: GradientFactors | None
    gram: Tensor | None
    margin_identity: bool
    products: Tensor | None = None
    squares: Tensor | None = None

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

    @property
    def has_gradients(self) -> bool:
        """Whether factors or inner products are here, and not values alone."""
        return self.factors is not None or self.gram is not None or self.products is not None

    @property
    def loss_rows(self) -> slice:
        """Rows of the training losses' gradients; under the identity, of those of goodness that they follow from."""
        return self.rows("train" if self.margin_identity else "train_loss")

    @property
    def device(self) -> torch.device:
        return self.goodness.device

    def to(self, device: torch.device | str) -> CheckpointFeatures:
        """Return the same on a device, where all that is made of it is computed."""
        return replace(
            self,
            goodness=self.goodness.to(device),
            train_loss=self.train_loss.to(device),
            factors=None if self.factors is None else self.factors.to(device),
            **{name: None if each is None else each.to(device) for name, each in self._inner_products().items()},
        )

    def rows(self, group: str) -> slice:
        """Return the rows of a group."""
        start = 0
        for name in ROW_GROUPS:
            size = self.counts.get(name, 0)
            if name == group:
                return slice(start, start + size)
            start += size
        raise KeyError(group)

    def full_gram(self) -> Tensor:
        """Return all raw inner products, ``[N, N]`` float64; a copy that may be destroyed.

        Raises:
            UsageError: See :meth:`stored_gram`.
        """
        if self.factors is not None:
            return gram_matrix(self.factors)
        return self.stored_gram().to(torch.float64, copy=True)

    def query_products(self) -> Tensor:
        """Return the raw inner products of the queries with ``loss_rows``, ``[m, n]`` float64; a copy.

        Raises:
            UsageError: They were not taken.
        """
        query, rows = self.rows("query"), self.loss_rows
        if self.factors is not None:
            return inner_products(self.factors.select(query), self.factors.select(rows))
        if self.products is not None:
            return self.products.to(torch.float64, copy=True)
        return self.stored_gram()[query, rows].to(torch.float64, copy=True)

    def squared_norms(self, rows: slice) -> Tensor:
        """Return the squared norms of some gradients, ``[b]`` float64; raises as :meth:`query_products`."""
        if self.factors is not None:
            return self.factors.select(rows).squared_norms()
        if self.squares is not None:
            return self.squares[rows].to(torch.float64)
        return self.stored_gram().diagonal()[rows].to(torch.float64)

    def _inner_products(self) -> dict[str, Tensor | None]:
        return {"gram": self.gram, "products": self.products, "squares": self.squares}

    def stored_gram(self) -> Tensor:
        """Return the raw inner products of a model without factors, ``[N, N]`` float64; not to be changed.

        Raises:
            UsageError: They were not taken.
        """
        if self.gram is None:
            raise UsageError(
                "These features do not hold the inner products of all gradients: they were taken for less.",
                "Take them with InnerProducts.ALL.",
            )
        return self.gram

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return everything as NumPy arrays for storing."""
        arrays = {
            "goodness": self.goodness.cpu().numpy(),
            "train_loss": self.train_loss.cpu().numpy(),
            "margin_identity": np.array(self.margin_identity),
            "counts": np.array([self.counts.get(name, 0) for name in ROW_GROUPS], dtype=np.int64),
        }
        arrays |= {name: each.cpu().numpy() for name, each in self._inner_products().items() if each is not None}
        if self.factors is not None:
            arrays["layers"] = np.array([layer.name for layer in self.factors.layers], dtype=np.str_)
            for index, layer in enumerate(self.factors.layers):
                arrays[f"inputs.{index}"] = layer.inputs.cpu().numpy()
                arrays[f"deltas.{index}"] = layer.deltas.cpu().numpy()
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> CheckpointFeatures:
        """Return the features stored by :meth:`to_arrays`.

        Raises:
            ArtifactError: An array is missing, or the rows do not add up.
        """
        try:
            result = cls(
                {n: int(c) for n, c in zip(ROW_GROUPS, arrays["counts"], strict=True) if c or n != "train_loss"},
                stored_tensor(arrays["goodness"]),
                stored_tensor(arrays["train_loss"]),
                _stored_factors(arrays) if "layers" in arrays else None,
                margin_identity=bool(arrays["margin_identity"]),
                **{name: stored_tensor(arrays[name]) if name in arrays else None for name in _INNER_PRODUCTS},
            )
        except KeyError as error:
            raise ArtifactError(f"Stored features lack the array {error}.", "Remove the artifact; rerun.") from error
        square = result.squares if result.gram is None else result.gram
        held = (result.factors.num_vectors if result.factors else None, None if square is None else len(square))
        present = next((count for count in held if count is not None), result.num_vectors)
        if present != result.num_vectors:
            raise ArtifactError(
                f"Stored features hold {present} rows where {result.num_vectors} belong.", "Remove the artifact; rerun."
            )
        return result


def _stored_factors(arrays: Mapping[str, np.ndarray]) -> GradientFactors:
    layers = []
    for index, name in enumerate(arrays["layers"]):
        inputs, deltas = (stored_tensor(arrays[f"{side}.{index}"]) for side in ("inputs", "deltas"))
        layers.append(LayerFactors(str(name), inputs, deltas))
    return GradientFactors(tuple(layers))


def gradient_requests(task: Task) -> list[Request]:
    """Return which gradients are taken, in row order."""
    requests = [Request(group, "goodness") for group in GROUPS]
    if not task.margin_identity:
        requests.append(Request("train", "train_loss"))
    return requests


def checkpoint_features(
    probe: Probe, *, products: InnerProducts = InnerProducts.ALL, budget_numbers: int = BUDGET_NUMBERS
) -> CheckpointFeatures:
    """Take the gradients of goodness (and, where needed, of the loss) at one checkpoint.

    Models made of plain Linear layers keep rank-one factors; any other model falls back to dense per-example
    gradients, streamed by parameter block, of which only inner products are kept, as many as are asked for.

    Args:
        probe: Task, model and examples.
        products: Which inner products are taken of a model without factors.
        budget_numbers: Numbers in one block of dense gradients.

    Raises:
        NumericalError: Goodness, loss or a gradient is not finite; names the group, the count and the first row.
        TaskError: The task breaks its contract, or a group has no examples.
    """
    task = probe.task
    if task.margin_identity and task.measurement_sign != 1:
        raise TaskError(
            f"Task {task.name!r} states the margin identity with measurement_sign {task.measurement_sign}.",
            "The identity holds for the classification margin, which is better when larger: use +1.",
        )
    probe.refuse_empty()
    requests = gradient_requests(task)
    counts = {name: probe.count(request.group) for name, request in zip(ROW_GROUPS, requests, strict=False)}
    goodness = torch.cat([_values(probe, group, "goodness") for group in GROUPS])
    train_loss = _values(probe, "train", "train_loss")
    factors, gram = None, None
    if not untracked_parameters(probe.model):
        factors = joined_factors(probe, list(zip(ROW_GROUPS, requests, strict=False)))
    elif products is InnerProducts.ALL:
        gram = dense_gram(probe, requests, budget_numbers=budget_numbers)
    bare = CheckpointFeatures(counts, goodness, train_loss, factors, gram, task.margin_identity)
    if factors is not None or products is not InnerProducts.QUERIES:
        return bare
    parts = bare.rows("query"), bare.loss_rows
    both = dense_products(probe, requests, *parts, budget_numbers=budget_numbers)
    return replace(bare, products=both[0], squares=both[1])


def _values(probe: Probe, group: Group, quantity: Quantity) -> Tensor:
    with evaluation_mode(probe.model), torch.no_grad():
        found = over_batches(probe, group, lambda _, batch: values_of(probe.task, probe.model, batch, quantity))
        values = torch.cat([part.to(probe.home) for _, part in found]).to(probe.dtype)
    bad = ~torch.isfinite(values)
    if bool(bad.any()):
        first = int(bad.nonzero()[0])
        raise NumericalError(
            f"The {quantity} of {int(bad.sum())} of {len(values)} {group} examples is not finite "
            f"(first at index {int(probe.rows(group)[first])}).",
            "Look for NaN in the data, or for a training run that diverged.",
        )
    return values
