"""What every product with a curvature promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from tda_backend.errors import NumericalError, UsageError
from tda_backend.finite import all_finite
from tda_backend.models.probe import Probe
from tda_backend.numerics.curvature.parameters import ParameterLayout, differentiable_attention
from tda_backend.numerics.curvature.pseudo_gradients import CurvatureKind


class CurvatureProduct(ABC):
    """C·v for the mean curvature over n examples, or over some of them.

    Attributes:
        kind: Which curvature.
        name: Names it in errors.
        layout: Order of the flat parameter axis p.
        num_train: n.
        dtype: Of the vectors.
        device: Where products run and come out.
    """

    def __init__(self, kind: CurvatureKind, probe: Probe) -> None:
        self.kind: CurvatureKind = kind
        self.device = torch.device(probe.device)
        self.name = f"{kind} of task {probe.task.name!r}"
        self.layout = ParameterLayout.of(probe.model)
        self.num_train = probe.count("train")
        self.dtype = probe.dtype

    @property
    def num_parameters(self) -> int:
        return self.layout.num_parameters

    def __call__(self, vectors: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return ``C·v`` for each vector, ``[q, p]`` → ``[q, p]``.

        Args:
            vectors: ``[q, p]``, one vector a row.
            rows: Positions among the n examples over which the curvature is averaged; ``None`` for all.

        Raises:
            UsageError: The vectors have another length.
            NumericalError: A product is not finite.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.num_parameters:
            raise UsageError(
                f"Got vectors of shape {tuple(vectors.shape)} for the {self.name} of {self.num_parameters} parameters.",
                "Give [q, p], one vector a row.",
            )
        with differentiable_attention():
            result = self._product(vectors.to(self.dtype), rows)
        if not all_finite(result):
            bad = ~torch.isfinite(result).all(1)
            raise NumericalError(
                f"The product of the {self.name} with {int(bad.sum())} of {len(bad)} vectors is not finite "
                f"(first: vector {int(bad.nonzero()[0])}).",
                "Look for NaN in the data, or for a training run that diverged.",
            )
        return result

    @abstractmethod
    def _product(self, vectors: Tensor, rows: Tensor | None) -> Tensor: ...


@runtime_checkable
class KnowsGradients(Protocol):
    """A product that is a mean of outer products of gradients that it can multiply with vectors."""

    def inner_products(self, vectors: Tensor) -> Tensor:
        """Return ⟨g_i, v⟩ of the first gradient of every example, ``[q, n]``."""
        ...
