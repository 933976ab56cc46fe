"""Products that differentiate the model anew for each product, batch by batch: any model, nothing kept."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from tda_backend.blocks import in_blocks, spans
from tda_backend.errors import UsageError
from tda_backend.models.precision import FULL
from tda_backend.models.probe import Probe
from tda_backend.numerics.curvature.linearised import Linearised, pulled_back
from tda_backend.numerics.curvature.products.base import CurvatureProduct
from tda_backend.numerics.curvature.pseudo_gradients import CurvatureKind, PseudoGradients, output_curvature_products
from tda_backend.numerics.features.streaming import batches, gradient_pass, values_of

_VECTORS = 16
"""Vectors that go through automatic differentiation together."""
_UNIT = "vectors"

Batch: TypeAlias = dict[str, Tensor]
BatchProduct: TypeAlias = Callable[[Tensor], Tensor]
"""Vectors ``[q, p]`` → the sum of their products over a batch's examples, ``[q, p]``."""


class _StreamedProduct(CurvatureProduct):
    """The mean over examples of what a model's graph of one batch makes of the vectors."""

    def __init__(self, kind: CurvatureKind, probe: Probe) -> None:
        super().__init__(kind, probe)
        if probe.precision != FULL:
            raise UsageError(
                f'The {self.name} is multiplied by passes over the model, which are not taken in "{probe.precision}": '
                "solvers would meet another curvature in each product.",
                f'Use precision "{FULL}" for it, or a method on per-example gradients (iffim, ekfac).',
            )
        self._probe = probe
        self._task, self._model = probe.task, probe.model
        self._parameters = [p for p in probe.model.parameters() if p.requires_grad]

    @abstractmethod
    def _of_batch(self, batch: Batch) -> BatchProduct:
        """Build the graph of one batch and return its product."""

    def _product(self, vectors: Tensor, rows: Tensor | None) -> Tensor:
        probe = self._chosen(self._probe, rows)
        vectors = vectors.to(self.device)
        result = torch.zeros_like(vectors)
        self._add(probe, vectors, result)
        return result.div_(probe.count("train"))

    def _add(self, probe: Probe, vectors: Tensor, result: Tensor) -> None:
        """Add the product summed over the probe's train examples to ``result``."""
        with gradient_pass(probe), torch.enable_grad():
            for _, batch in batches(probe, "train"):
                product = self._of_batch(batch)
                for part, found in in_blocks(len(vectors), _VECTORS, lambda part, of=product: of(vectors[part]), _UNIT):
                    result[part] += found

    @staticmethod
    def _chosen(probe: Probe, rows: Tensor | None) -> Probe:
        return probe if rows is None else probe.only("train", probe.rows("train")[rows.cpu()])


class HessianProduct(_StreamedProduct):
    """``(1/n) Σ ∇²ℓ_i v`` by a double backward pass."""

    def __init__(self, probe: Probe) -> None:
        super().__init__("hessian", probe)

    def _of_batch(self, batch: Batch) -> BatchProduct:
        losses = values_of(self._task, self._model, batch, "train_loss")
        gradients = torch.autograd.grad(
            losses.sum(), self._parameters, create_graph=True, allow_unused=True, materialize_grads=True
        )

        def product(vectors: Tensor) -> Tensor:
            products = pulled_back(gradients, self._parameters, self.layout.split(vectors))
            return torch.cat([each.reshape(len(each), -1) for each in products], 1)

        return product


class OutputProduct(_StreamedProduct):
    """The Gauss–Newton product, with the output curvature applied matrix-free."""

    def __init__(self, probe: Probe) -> None:
        super().__init__("ggn", probe)

    def _of_batch(self, batch: Batch) -> BatchProduct:
        outputs = self._task.outputs(self._model, batch)
        linear = Linearised(outputs, self._parameters)

        def product(vectors: Tensor) -> Tensor:
            pushed = linear.push(self.layout.split(vectors))
            return linear.pull(output_curvature_products(self._task, outputs, batch, pushed))

        return product


class ScalarProduct(_StreamedProduct):
    """``(1/n) Σ_c J_cᵀ(J_c v)`` with J_c the Jacobian of n scalars."""

    def __init__(self, kind: CurvatureKind, pseudo: PseudoGradients) -> None:
        super().__init__(kind, pseudo.parts[0])
        self._parts = pseudo.parts

    def inner_products(self, vectors: Tensor) -> Tensor:
        """Return ⟨g_i, v⟩ of the first part, ``[q, n]``."""
        vectors = vectors.to(self.device)
        collected: list[Tensor] = []
        with gradient_pass(self._probe), torch.enable_grad():
            for _, batch in batches(self._probe, "train"):
                linear = self._linearised(batch)
                parts = spans(len(vectors), _VECTORS)
                collected.append(torch.cat([linear.push(self.layout.split(vectors[part])) for part in parts]))
        return torch.cat(collected, dim=1)

    def _linearised(self, batch: Batch) -> Linearised:
        return Linearised(values_of(self._task, self._model, batch, "train_loss"), self._parameters)

    def _of_batch(self, batch: Batch) -> BatchProduct:
        linear = self._linearised(batch)
        return lambda vectors: linear.pull(linear.push(self.layout.split(vectors)))

    def _product(self, vectors: Tensor, rows: Tensor | None) -> Tensor:
        vectors = vectors.to(self.device)
        result = torch.zeros_like(vectors)
        for part in self._parts:
            self._add(self._chosen(part, rows), vectors, result)
        return result.div_(self.num_train if rows is None else len(rows))
