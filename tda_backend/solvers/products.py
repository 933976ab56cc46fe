"""Products with the curvature of the **mean** training loss, never p × p, streamed over examples.

======================  ============================================================  ==============================
curvature               C                                                             C·v of a batch
======================  ============================================================  ==============================
``hessian``             (1/n) Σ ∇²ℓ_i                                                 double backward pass
``ggn``                 (1/n) Σ J_iᵀ (∇²ℓ_i in the outputs) J_i                       Jᵀ(H_out(J v))
``empirical-fisher``    (1/n) Σ g_i g_iᵀ                                              Jᵀ(J v), J the losses' Jacobian
``true-fisher``         the same with labels drawn from the model                     the same
======================  ============================================================  ==============================

Models made of plain Linear layers keep rank-one factors of the (pseudo-)gradients once; a product is then a few
matrix products for all vectors together. Any other model is differentiated anew for each product.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from tda_backend.errors import NumericalError, TaskError, UsageError
from tda_backend.features.factors import GradientFactors, linear_factors, untracked_parameters
from tda_backend.features.streaming import batches, evaluation_mode, values_of
from tda_backend.solvers.linearised import Linearised, pulled_back
from tda_backend.solvers.parameters import ParameterLayout, differentiable_attention
from tda_backend.solvers.pseudo_gradients import (
    CurvatureKind,
    PseudoGradients,
    check_curvature,
    output_curvature_products,
    pseudo_gradients,
)
from tda_backend.types import Batch, Task

_VECTORS = 16
"""Vectors that go through automatic differentiation together."""

_FACTOR_NUMBERS = 2**27
"""Numbers (512 MiB of float32) that the deltas of all pseudo-gradients may take before they are not kept."""

_EXAMPLES = 1024


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

    def __init__(
        self, kind: CurvatureKind, task: Task, model: nn.Module, num_train: int, device: torch.device | str
    ) -> None:
        self.kind: CurvatureKind = kind
        self.device = torch.device(device)
        self.name = f"{kind} of task {task.name!r}"
        self.layout = ParameterLayout.of(model)
        self.num_train = num_train
        self.dtype = next(p.dtype for p in model.parameters() if p.requires_grad)

    @property
    def num_parameters(self) -> int:
        return self.layout.num_parameters

    def __call__(self, vectors: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return ``C·v`` for each vector, ``[q, p]`` → ``[q, p]``.

        Args:
            vectors: ``[q, p]``, one vector a row.
            rows: Positions among the n examples whose mean curvature is meant; ``None`` for all.

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
        bad = ~torch.isfinite(result).all(1)
        if bool(bad.any()):
            raise NumericalError(
                f"The product of the {self.name} with {int(bad.sum())} of {len(bad)} vectors is not finite "
                f"(first: vector {int(bad.nonzero()[0])}).",
                "Look for NaN in the data, or for a training run that diverged.",
            )
        return result

    @abstractmethod
    def _product(self, vectors: Tensor, rows: Tensor | None) -> Tensor: ...


def curvature_product(
    task: Task,
    model: nn.Module,
    data: Batch,
    indices: Sequence[int] | Tensor,
    kind: CurvatureKind,
    *,
    seed: int = 0,
    num_samples: int = 1,
    device: torch.device | str = "cpu",
    batch_size: int = 512,
) -> CurvatureProduct:
    """Return the product with the curvature of the mean training loss; it does not depend on the batch size.

    Args:
        task: Loss; for ggn and true-fisher also its outputs.
        model: At the checkpoint; used in eval mode.
        data: The train split.
        indices: Rows of it, n.
        kind: ``hessian``, ``ggn``, ``empirical-fisher`` or ``true-fisher``.
        seed: For the labels of the true Fisher.
        num_samples: Labels drawn per example for the true Fisher.
        device: Where the products run.
        batch_size: Examples per pass.

    Raises:
        UsageError: Unknown kind.
        TaskError: The task lacks what the kind needs, or there are no examples.
        NumericalError: A gradient or output is not finite.
    """
    check_curvature(kind)
    rows = torch.as_tensor(indices, dtype=torch.long)
    if len(rows) == 0:
        raise TaskError("There are no train examples.", "Give at least one index.")
    model.to(device)
    if kind == "hessian":
        return _HessianProduct(task, model, data, rows, device, batch_size)
    if kind == "ggn" and untracked_parameters(model):
        return _OutputProduct(task, model, data, rows, device, batch_size)
    pseudo = pseudo_gradients(
        task, model, data, rows, kind, seed=seed, num_samples=num_samples, device=device, batch_size=batch_size
    )
    if not untracked_parameters(model):
        first = _part_factors(pseudo, 0, model, device, batch_size)
        numbers = sum(layer.deltas.numel() for layer in first.layers)
        if numbers * len(pseudo.parts) <= _FACTOR_NUMBERS:
            return FactorProduct(kind, task, model, pseudo, first, device, batch_size)
        if kind == "ggn":
            return _OutputProduct(task, model, data, rows, device, batch_size)
    return _ScalarProduct(kind, task, model, pseudo, device, batch_size)


def loss_products(
    task: Task,
    model: nn.Module,
    data: Batch,
    indices: Sequence[int] | Tensor,
    vectors: Tensor,
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 512,
) -> Tensor:
    """Return ⟨∇ℓ_i, v⟩ of every example and vector, ``[q, n]`` on the CPU, without holding gradients.

    Args:
        task: Whose training loss is differentiated.
        model: Any model.
        data: The train split.
        indices: Rows of it, n.
        vectors: ``[q, p]``.
        device: Where the passes run.
        batch_size: Examples per pass.

    Raises:
        NumericalError: A product is not finite.
    """
    product = curvature_product(task, model, data, indices, "empirical-fisher", device=device, batch_size=batch_size)
    return inner_products(product, vectors)


def inner_products(product: CurvatureProduct, vectors: Tensor) -> Tensor:
    """Return ⟨∇ℓ_i, v⟩ from an empirical Fisher's product, ``[q, n]`` on the CPU.

    Raises:
        UsageError: The product is of another kind.
        NumericalError: A value is not finite.
    """
    if product.kind != "empirical-fisher" or not isinstance(product, (FactorProduct, _ScalarProduct)):
        raise UsageError(f"Loss gradients are not known to the {product.name}.", "Give the empirical Fisher's product.")
    with differentiable_attention():
        values = product.inner_products(vectors.to(product.dtype)).cpu()
    if not bool(torch.isfinite(values).all()):
        raise NumericalError(
            f"Inner products with the loss gradients of the {product.name} are not finite.",
            "Look for NaN in the gradients, or use a larger λ.",
        )
    return values


def _part_factors(
    pseudo: PseudoGradients, index: int, model: nn.Module, device: torch.device | str, batch_size: int
) -> GradientFactors:
    part = pseudo.parts[index]
    return linear_factors(pseudo.task, model, part, range(pseudo.num_train), "train_loss", batch_size, device)[0]


class FactorProduct(CurvatureProduct):
    """``(1/n) Σ_c J_cᵀ(J_c v)`` through rank-one factors: ``J_c v = Σ_layers δ_c·(V a)``."""

    def __init__(
        self,
        kind: CurvatureKind,
        task: Task,
        model: nn.Module,
        pseudo: PseudoGradients,
        first: GradientFactors,
        device: torch.device | str,
        batch_size: int,
    ) -> None:
        super().__init__(kind, task, model, pseudo.num_train, device)
        self._names = [layer.name for layer in first.layers]
        # The inputs of a layer are the same for every c; positions become an axis of their own, [n, t, d].
        self._inputs = [_with_positions(layer.inputs).to(device) for layer in first.layers]
        deltas = [[_with_positions(layer.deltas).to(device) for layer in first.layers]]
        for index in range(1, len(pseudo.parts)):
            factors = _part_factors(pseudo, index, model, device, batch_size)
            deltas.append([_with_positions(layer.deltas).to(device) for layer in factors.layers])
        self._deltas = [torch.stack(same, dim=1) for same in zip(*deltas, strict=True)]  # [n, C, t, d_out]

    def inner_products(self, vectors: Tensor) -> Tensor:
        """Return ⟨g_i, v⟩ of the first part, ``[q, n]``."""
        layers = self._views(vectors.to(self.device))
        parts = [self._coefficients(layers, self._select(rows)) for rows in self._chunks(None)]
        return torch.cat(parts)[:, :, 0].T

    def _product(self, vectors: Tensor, rows: Tensor | None) -> Tensor:
        vectors = vectors.to(self.device)
        layers = self._views(vectors)
        result = torch.zeros_like(vectors)
        sums = self._views(result)
        num = self.num_train if rows is None else len(rows)
        for chunk in self._chunks(rows):
            selected = self._select(chunk)
            coefficients = self._coefficients(layers, selected)  # [b, q, C]
            for (weight, bias), (a, d) in zip(sums, selected, strict=True):
                weighted = (coefficients @ d.flatten(2)).transpose(0, 1)  # [q, b, t·d_out]
                weighted = weighted.reshape(len(weighted), -1, d.shape[3])
                inner = a.flatten(0, 1)[:, : weight.shape[2]].expand(len(weight), -1, -1)
                weight.baddbmm_(weighted.mT, inner, alpha=1 / num)
                if bias is not None:
                    bias.add_(weighted.sum(1), alpha=1 / num)
        return result

    def _views(self, vectors: Tensor) -> list[tuple[Tensor, Tensor | None]]:
        """Return each layer's part of the vectors without copying: ``[q, d_out, d_in]`` and ``[q, d_out]``."""
        views = []
        for name, inputs in zip(self._names, self._inputs, strict=True):
            weight, bias = self.layout.layer_spans(name)
            width = inputs.shape[-1] - (bias is not None)
            views.append((vectors[:, weight].unflatten(1, (-1, width)), None if bias is None else vectors[:, bias]))
        return views

    def _chunks(self, rows: Tensor | None) -> list[slice] | list[Tensor]:
        if rows is not None:
            return list(rows.to(self.device).split(_EXAMPLES))
        return [slice(start, start + _EXAMPLES) for start in range(0, self.num_train, _EXAMPLES)]

    def _select(self, rows: slice | Tensor) -> list[tuple[Tensor, Tensor]]:
        return [(a[rows], d[rows]) for a, d in zip(self._inputs, self._deltas, strict=True)]

    def _coefficients(
        self, layers: list[tuple[Tensor, Tensor | None]], selected: list[tuple[Tensor, Tensor]]
    ) -> Tensor:
        """Return ⟨g_ic, v⟩ of a chunk, ``[b, q, C]``."""
        total: Tensor | None = None
        for (weight, bias), (a, d) in zip(layers, selected, strict=True):
            inner = a.flatten(0, 1)[:, : weight.shape[2]].expand(len(weight), -1, -1)
            if bias is None:
                pushed = inner @ weight.mT  # [q, b·t, d_out]
            else:
                pushed = torch.baddbmm(bias[:, None], inner, weight.mT)
            pushed = pushed.view(len(weight), len(a), -1).transpose(0, 1)
            part = pushed @ d.flatten(2).mT
            total = part if total is None else total.add_(part)
        assert total is not None
        return total


def _with_positions(values: Tensor) -> Tensor:
    return values[:, None] if values.ndim == 2 else values


class _StreamedProduct(CurvatureProduct):
    """Products that differentiate the model anew, batch by batch."""

    def __init__(
        self,
        kind: CurvatureKind,
        task: Task,
        model: nn.Module,
        num_train: int,
        device: torch.device | str,
        batch_size: int,
    ) -> None:
        super().__init__(kind, task, model, num_train, device)
        self._model, self._task = model, task
        self._batch_size = batch_size
        self._parameters = [p for p in model.parameters() if p.requires_grad]

    def _stream(self, data: Batch, rows: Tensor, step: Callable[[dict[str, Tensor]], None]) -> None:
        self._model.to(self.device)
        with evaluation_mode(self._model), torch.enable_grad():
            for _, batch in batches(data, rows, self._batch_size, self.device):
                step(batch)


class _HessianProduct(_StreamedProduct):
    def __init__(
        self,
        task: Task,
        model: nn.Module,
        data: Batch,
        rows: Tensor,
        device: torch.device | str,
        batch_size: int,
    ) -> None:
        super().__init__("hessian", task, model, len(rows), device, batch_size)
        self._data, self._rows = data, rows

    def _product(self, vectors: Tensor, rows: Tensor | None) -> Tensor:
        chosen = self._rows if rows is None else self._rows[rows.cpu()]
        vectors = vectors.to(self.device)
        result = torch.zeros_like(vectors)

        def step(batch: dict[str, Tensor]) -> None:
            losses = values_of(self._task, self._model, batch, "train_loss")
            gradients = torch.autograd.grad(
                losses.sum(), self._parameters, create_graph=True, allow_unused=True, materialize_grads=True
            )
            for start in range(0, len(vectors), _VECTORS):
                part = slice(start, start + _VECTORS)
                products = pulled_back(gradients, self._parameters, self.layout.split(vectors[part]))
                result[part] += torch.cat([product.flatten(1) for product in products], 1)

        self._stream(self._data, chosen, step)
        return result.div_(len(chosen))


class _OutputProduct(_StreamedProduct):
    """The Gauss–Newton product, with the output curvature applied matrix-free."""

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        data: Batch,
        rows: Tensor,
        device: torch.device | str,
        batch_size: int,
    ) -> None:
        super().__init__("ggn", task, model, len(rows), device, batch_size)
        self._data, self._rows = data, rows

    def _product(self, vectors: Tensor, rows: Tensor | None) -> Tensor:
        chosen = self._rows if rows is None else self._rows[rows.cpu()]
        vectors = vectors.to(self.device)
        result = torch.zeros_like(vectors)

        def step(batch: dict[str, Tensor]) -> None:
            outputs = self._task.outputs(self._model, batch)
            linear = Linearised(outputs, self._parameters)
            for start in range(0, len(vectors), _VECTORS):
                part = slice(start, start + _VECTORS)
                pushed = linear.push(self.layout.split(vectors[part]))
                curved = output_curvature_products(self._task, outputs, batch, pushed)
                result[part] += linear.pull(curved)

        self._stream(self._data, chosen, step)
        return result.div_(len(chosen))


class _ScalarProduct(_StreamedProduct):
    """``(1/n) Σ_c J_cᵀ(J_c v)`` with J_c the Jacobian of n scalars."""

    def __init__(
        self,
        kind: CurvatureKind,
        task: Task,
        model: nn.Module,
        pseudo: PseudoGradients,
        device: torch.device | str,
        batch_size: int,
    ) -> None:
        super().__init__(kind, task, model, pseudo.num_train, device, batch_size)
        self._pseudo = pseudo
        self._rows = torch.arange(pseudo.num_train)

    def inner_products(self, vectors: Tensor) -> Tensor:
        """Return ⟨g_i, v⟩ of the first part, ``[q, n]``."""
        vectors = vectors.to(self.device)
        collected: list[Tensor] = []

        def step(batch: dict[str, Tensor]) -> None:
            linear = Linearised(values_of(self._pseudo.task, self._model, batch, "train_loss"), self._parameters)
            parts = vectors.split(_VECTORS)
            collected.append(torch.cat([linear.push(self.layout.split(part)) for part in parts]))

        self._stream(self._pseudo.parts[0], self._rows, step)
        return torch.cat(collected, dim=1)

    def _product(self, vectors: Tensor, rows: Tensor | None) -> Tensor:
        chosen = self._rows if rows is None else self._rows[rows.cpu()]
        vectors = vectors.to(self.device)
        result = torch.zeros_like(vectors)

        def step(batch: dict[str, Tensor]) -> None:
            linear = Linearised(values_of(self._pseudo.task, self._model, batch, "train_loss"), self._parameters)
            for start in range(0, len(vectors), _VECTORS):
                part = slice(start, start + _VECTORS)
                result[part] += linear.pull(linear.push(self.layout.split(vectors[part])))

        for part in self._pseudo.parts:
            self._stream(part, chosen, step)
        return result.div_(len(chosen))
