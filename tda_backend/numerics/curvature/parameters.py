"""All trainable parameters as one flat axis p: the layout, and gradients as rows ``[N, p]``."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tda_backend.errors import TaskError
from tda_backend.models.probe import Group, Probe
from tda_backend.numerics.features.dense import Request, dense_gradient_blocks
from tda_backend.numerics.features.factors import GradientFactors, LayerFactors, linear_factors, untracked_parameters
from tda_backend.numerics.features.streaming import Quantity


@dataclass(frozen=True)
class ParameterLayout:
    """Where each trainable parameter lies in a flat vector: the order of ``named_parameters``, each one flattened.

    Attributes:
        names: Names of the trainable parameters; a tied parameter appears once.
        shapes: Their shapes.
    """

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]

    @classmethod
    def of(cls, model: nn.Module) -> ParameterLayout:
        """Return the layout of a model.

        Raises:
            TaskError: The model has no trainable parameters.
        """
        named = [(name, p.shape) for name, p in model.named_parameters() if p.requires_grad]
        if not named:
            raise TaskError("The model has no trainable parameters.", "Nothing can be attributed without gradients.")
        return cls(tuple(name for name, _ in named), tuple(shape for _, shape in named))

    @property
    def num_parameters(self) -> int:
        return sum(shape.numel() for shape in self.shapes)

    def spans(self) -> dict[str, slice]:
        """Return the entries of each parameter."""
        spans, start = {}, 0
        for name, shape in zip(self.names, self.shapes, strict=True):
            spans[name] = slice(start, start + shape.numel())
            start += shape.numel()
        return spans

    def split(self, vectors: Tensor) -> list[Tensor]:
        """Return vectors ``[q, p]`` as one ``[q, *shape]`` per parameter (views)."""
        parts = vectors.split([shape.numel() for shape in self.shapes], dim=1)
        return [part.reshape(len(vectors), *shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def layer_spans(self, layer: str) -> tuple[slice, slice | None]:
        """Return the entries of a Linear layer's weight and of its trainable bias, if it has one."""
        spans, prefix = self.spans(), f"{layer}." if layer else ""
        return spans[f"{prefix}weight"], spans.get(f"{prefix}bias")


def differentiable_attention():
    """Return a context in which attention runs by plain products, the only kind that can be differentiated twice."""
    return sdpa_kernel(SDPBackend.MATH)


def flat_gradients(probe: Probe, group: Group, quantity: Quantity) -> Tensor:
    """Return per-example gradients as rows ``[N, p]`` at the probe's home; N·p numbers of the model's dtype are held.

    Args:
        probe: Any model without interaction between examples in eval mode.
        group: Whose gradients, N.
        quantity: ``goodness`` or ``train_loss``.

    Raises:
        NumericalError: A gradient is not finite.
    """
    layout = ParameterLayout.of(probe.model)
    if not untracked_parameters(probe.model):
        return factor_rows(linear_factors(probe, group, quantity)[0], layout)
    spans = layout.spans()
    rows = torch.zeros(probe.count(group), layout.num_parameters, dtype=probe.dtype, device=probe.home)
    with differentiable_attention():
        for block in dense_gradient_blocks(probe, [Request(group, quantity)]):
            start = spans[block.parameter].start + block.start
            rows[:, start : start + block.values.shape[1]] = block.values
    return rows


def factor_rows(factors: GradientFactors, layout: ParameterLayout) -> Tensor:
    """Return the gradient vectors that factors stand for, ``[N, p]`` in the layout's order."""
    rows = factors.layers[0].inputs.new_zeros(factors.num_vectors, layout.num_parameters)
    for layer in factors.layers:
        gradient = _outer(layer)
        weight, bias = layout.layer_spans(layer.name)
        width = gradient.shape[2] - (bias is not None)
        rows[:, weight] = gradient[:, :, :width].reshape(len(rows), -1)
        if bias is not None:
            rows[:, bias] = gradient[:, :, width]
    return rows


def _outer(layer: LayerFactors) -> Tensor:
    """Return Σ_t δ_t a_tᵀ of each example, ``[N, d_out, d_in]``."""
    if layer.inputs.ndim == 2:
        return layer.deltas[:, :, None] * layer.inputs[:, None, :]
    return layer.deltas.transpose(1, 2) @ layer.inputs
