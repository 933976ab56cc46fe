"""Per-example gradients as rows ``[b, p]``, in the coordinates that a segment's curvature is given in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from tda_backend.models.probe import Group, Probe, home_of
from tda_backend.numerics.features.dense import Request, dense_gradient_blocks
from tda_backend.numerics.features.layers import TrackedLayer, UntrackedPolicy, layer_batches, tracked_layers
from tda_backend.numerics.features.streaming import Quantity
from tda_backend.numerics.trajectory.source.kronecker import KroneckerOperator
from tda_backend.numerics.trajectory.source.preconditioned import Preconditioner, flat_preconditioner
from tda_backend.numerics.trajectory.source.walk import SegmentOperator


class GradientLayout(Protocol):
    """Which parameters enter, in which order."""

    @property
    def width(self) -> int:
        """p, the number of coordinates."""
        ...

    def gradients(self, probe: Probe, group: Group, quantity: Quantity, operator: SegmentOperator) -> Tensor:
        """Return the gradients of ``quantity`` at a group's examples, ``[b, p]``, in eval mode.

        They come in the coordinates of the segment ``operator``.
        """
        ...

    def add_gradients(
        self,
        out: Tensor,
        probe: Probe,
        group: Group,
        quantity: Quantity,
        operator: SegmentOperator,
        *,
        verify: bool = True,
    ) -> None:
        """Add the same to ``out``: fresh memory for every block takes longer than what is computed in it.

        ``verify``: whether the gradients are compared with autograd's, if they are computed in another way.
        """
        ...

    def preconditioner(self, model: nn.Module, given: Preconditioner) -> Tensor:
        """Return P in these coordinates, ``[p]`` float64."""
        ...


@dataclass(frozen=True)
class FlatLayout:
    """All trainable parameters in the model's order, in float64: small models.

    Attributes:
        width: p.
    """

    width: int

    def gradients(self, probe: Probe, group: Group, quantity: Quantity, operator: SegmentOperator) -> Tensor:
        """Return dense gradients, ``[b, p]`` float64."""
        size = probe.count(group)
        blocks = dense_gradient_blocks(
            replace(probe, batch_size=size),
            [Request(group, quantity)],
            budget_numbers=size * max(self.width, 2048),  # one pass over the model
        )
        return torch.cat([block.values for block in blocks], dim=1).to(probe.home, torch.float64)

    def add_gradients(
        self,
        out: Tensor,
        probe: Probe,
        group: Group,
        quantity: Quantity,
        operator: SegmentOperator,
        *,
        verify: bool = True,
    ) -> None:
        """Add the gradients to ``out``, ``[b, p]``."""
        out += self.gradients(probe, group, quantity, operator)

    def preconditioner(self, model: nn.Module, given: Preconditioner) -> Tensor:
        """Return P, ``[p]``."""
        return flat_preconditioner(model, given).to(_home(model))


@dataclass(frozen=True)
class LayerLayout:
    """The tracked layers one after the other, each ``[d_out, d_in]`` row by row with its bias as last column.

    Attributes:
        layers: From :func:`tracked_layers`.
        untracked: What happened to other parameters.
        shapes: (d_out, d_in) of each layer's coordinates; bases may have fewer than the layer has parameters.
    """

    layers: tuple[TrackedLayer, ...]
    untracked: UntrackedPolicy
    shapes: tuple[tuple[int, int], ...]

    def of(self, operator: KroneckerOperator) -> LayerLayout:
        """Return the layout of the coordinates of a segment's bases."""
        shapes = (layer.eigenvalues.shape for layer in operator.layers)
        return replace(self, shapes=tuple((outputs, inputs) for outputs, inputs in shapes))

    @property
    def width(self) -> int:
        """p."""
        return sum(outputs * inputs for outputs, inputs in self.shapes)

    @property
    def columns(self) -> dict[str, slice]:
        """Columns of each layer, by name."""
        result, start = {}, 0
        for layer, (outputs, inputs) in zip(self.layers, self.shapes, strict=True):
            stop = start + outputs * inputs
            result[layer.name] = slice(start, stop)
            start = stop
        return result

    def gradients(self, probe: Probe, group: Group, quantity: Quantity, operator: SegmentOperator) -> Tensor:
        """Return ``Σ_t δ_it a_itᵀ`` of every layer, ``[b, p]`` in the model's dtype."""
        dtype = probe.model.get_parameter(self.layers[0].weight).dtype
        result = torch.zeros(len(probe.rows(group)), self.width, dtype=dtype, device=probe.home)
        self.add_gradients(result, probe, group, quantity, operator)
        return result

    def add_gradients(
        self,
        out: Tensor,
        probe: Probe,
        group: Group,
        quantity: Quantity,
        operator: SegmentOperator,
        *,
        verify: bool = True,
    ) -> None:
        """Add the gradients to ``out``, ``[b, p]``; rotated at their factors."""
        columns = self.columns
        bases = {layer.name: layer for layer in operator.layers} if isinstance(operator, KroneckerOperator) else {}
        for batch in layer_batches(probe, group, quantity, untracked=self.untracked, verify=verify):
            for name, factors in batch.layers.items():
                a, d = factors.inputs, factors.deltas
                if name in bases:
                    a, d = a @ bases[name].input_basis, d @ bases[name].output_basis
                own = out[batch.rows, columns[name]].unflatten(1, (d.shape[-1], a.shape[-1]))
                if a.ndim == 2:
                    own.addcmul_(d[:, :, None], a[:, None, :])
                else:
                    own.baddbmm_(d.mT, a)

    def preconditioner(self, model: nn.Module, given: Preconditioner) -> Tensor:
        """Return P of the tracked entries, ``[p]``."""
        flat = flat_preconditioner(model, given)
        named: dict[str, Tensor] = {}
        start = 0
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                named[name] = flat[start : start + parameter.numel()].view(parameter.shape)
                start += parameter.numel()
        return torch.cat([layer.matrix(named).flatten() for layer in self.layers]).to(_home(model))


def layer_layout(model: nn.Module, untracked: UntrackedPolicy) -> LayerLayout:
    """Return the layout of a model's tracked layers.

    Raises:
        TaskError: See :func:`tracked_layers`.
    """
    layers = tracked_layers(model, untracked)
    return LayerLayout(layers, untracked, tuple(layer.shape for layer in layers))


def flat_layout(model: nn.Module) -> FlatLayout:
    """Return the layout of all trainable parameters."""
    return FlatLayout(sum(p.numel() for p in model.parameters() if p.requires_grad))


def _home(model: nn.Module) -> torch.device:
    return home_of(next(model.parameters()).device)
