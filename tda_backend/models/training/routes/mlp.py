"""Hand-written training of multilayer perceptrons, alone or stacked: the fast route for small models.

For layers z_l = W_l a_{l−1} + b_l, a_l = D_l ∘ relu(z_l) (D_l the scaled dropout mask), with δ_L = softmax(z_L) −
onehot for cross-entropy or 2(z_L − y) for the squared error, and δ_{l−1} = D_{l−1} ∘ 1[z_{l−1} > 0] ∘ (W_lᵀ δ_l), one
SGD step with momentum μ and weight decay is v ← μ·v + (1/b) δ_lᵀ a_{l−1} + wd·W, W ← W − η·v.

What makes it fast on small matrices, where the cost is calls and memory passes, not arithmetic:
the momentum is part of the gradient's matrix product (``beta`` of addmm); the factors 1/b and dropout's scale are its
``alpha``; a batch is gathered straight into a buffer that stays in the second-level cache (the gather of a whole epoch
was measured 40 % slower); all parameters of a model are views of one vector, so that W ← W − η·v is one call; nothing
is allocated per step. The same code trains M models at once when every tensor has a leading axis M (baddbmm).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tda_backend.models.training.routes.dropout import MaskStream, keep_scale
from tda_backend.models.training.routes.perceptron import MLPArchitecture
from tda_backend.models.training.routes.schedule import (
    StepHook,
    foreach_add,
    learning_rate,
    steps_per_epoch,
    training_order,
)
from tda_backend.models.training.run import RunGroup
from tda_backend.types import TrainingSettings

_threshold_backward = torch.ops.aten.threshold_backward.grad_input


class _Buffers:
    """Everything a step writes, for one batch size, with the transposed views it needs."""

    def __init__(self, stack: tuple[int, ...], batch: int, sizes: Sequence[int], like: dict[str, Any]) -> None:
        self.batch = batch
        self.gathered = torch.empty(int(np.prod(stack, dtype=np.int64)) * batch, sizes[0], **like)
        self.activations = [self.gathered.view(*stack, batch, sizes[0])]
        self.activations += [torch.empty(*stack, batch, size, **like) for size in sizes[1:]]
        self.deltas = [torch.empty(*stack, batch, size, **like) for size in sizes[1:]]
        self.deltas_t = [delta.mT for delta in self.deltas]
        self.ones = torch.ones(*stack, 1, batch, **like)


class MLPTrainer:
    """Trains one perceptron (``stacked=False``) or M of equal architecture and subset size at once.

    Args:
        architecture: From :func:`mlp_architecture`.
        settings: Training settings.
        group: Data, rows and seeds of the M runs.
        states: Initial parameters of each model, by name, ``[M]``.
        stacked: Use the batched products even for one model.

    Attributes:
        on_step: Looks on before every step of a single model; it must change nothing.
    """

    def __init__(
        self,
        architecture: MLPArchitecture,
        settings: TrainingSettings,
        group: RunGroup,
        states: Sequence[Mapping[str, Tensor]],
        *,
        stacked: bool = True,
    ) -> None:
        self.on_step: StepHook | None = None
        self._arch, self._settings, self._seeds = architecture, settings, list(group.seeds)
        self._indices = np.stack(group.rows)
        self._size = self._indices.shape[1]
        self._stack = (len(states),) if stacked else ()
        if not stacked and len(states) != 1:
            raise ValueError("one model at a time unless stacked")
        inputs, labels = (group.data[key] for key in architecture.keys)
        like: dict[str, Any] = {"dtype": inputs.dtype, "device": torch.device(group.device)}
        self._inputs = inputs.reshape(len(inputs), -1).to(group.device).contiguous()
        self._labels = labels.to(group.device)
        self._eye = torch.eye(architecture.sizes[-1], **like) if architecture.loss == "cross-entropy" else None
        self._parameters, self._weights, self._biases = self._storage(like)
        self._velocities, self._weight_velocities, self._bias_velocities = self._storage(like)
        for name, target in zip(architecture.names, self._named(), strict=True):
            for model, state in enumerate(states):
                (target[model] if stacked else target).copy_(state[name].reshape(target.shape[len(self._stack) :]))
        self._weights_t = [weight.mT for weight in self._weights]
        self._scales = [1.0] + [keep_scale(p) if p else 1.0 for p in architecture.dropout]
        rest = self._size % settings.batch_size
        sizes = {min(settings.batch_size, self._size), rest or min(settings.batch_size, self._size)}
        self._buffers = {b: _Buffers(self._stack, b, architecture.sizes, like) for b in sizes}
        self._masks = [
            torch.empty(*self._stack, self._size, width, **like) if p else None
            for p, width in zip(architecture.dropout, architecture.sizes[1:-1], strict=True)
        ]
        self._host_masks = [
            mask if mask is None or mask.device.type == "cpu" else torch.empty(mask.shape, dtype=mask.dtype)
            for mask in self._masks
        ]
        self._multiply = torch.baddbmm if stacked else torch.addmm

    def _storage(self, like: dict[str, Any]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Return (tensors to update, weights ``[…, out, in]``, biases ``[…, 1, out]``), zero, the latter as views."""
        shapes = [
            shape
            for fan_in, fan_out in zip(self._arch.sizes[:-1], self._arch.sizes[1:], strict=True)
            for shape in ((fan_out, fan_in), (1, fan_out))
        ]
        if self._stack:  # batched products want each operand contiguous
            tensors = [torch.zeros(*self._stack, *shape, **like) for shape in shapes]
            return tensors, tensors[::2], tensors[1::2]
        counts = [rows * columns for rows, columns in shapes]
        flat = torch.zeros(sum(counts), **like)
        views = [part.view(shape) for part, shape in zip(flat.split(counts), shapes, strict=True)]
        return [flat], views[::2], views[1::2]

    def _named(self) -> list[Tensor]:
        pairs = zip(self._weights, self._biases, strict=True)
        return [tensor for weight, bias in pairs for tensor in (weight, bias.squeeze(-2))]

    def states(self) -> list[dict[str, Tensor]]:
        """Return a copy of the current parameters of each model, on the CPU."""
        copies = [tensor.cpu().clone() for tensor in self._named()]
        if not self._stack:
            return [dict(zip(self._arch.names, copies, strict=True))]
        return [
            {name: copy[model].clone() for name, copy in zip(self._arch.names, copies, strict=True)}
            for model in range(self._stack[0])
        ]

    def _draw_masks(self, epoch: int) -> None:
        layer = 0
        for mask, host, p in zip(self._masks, self._host_masks, self._arch.dropout, strict=True):
            if mask is None or host is None:
                continue
            rows = host.numpy().reshape(len(self._seeds), self._size, -1)
            for model, seed in enumerate(self._seeds):
                kept = MaskStream(seed, epoch, layer, p).draw(self._size, rows.shape[2])
                np.multiply(kept, rows.dtype.type(1), out=rows[model])
            if host is not mask:
                mask.copy_(host)
            layer += 1

    @torch.no_grad()
    def train_epoch(self, epoch: int) -> None:
        """Run one epoch (1-based) of every model."""
        settings, size, device = self._settings, self._size, self._inputs.device
        orders = np.stack([rows[training_order(seed, epoch, size)] for rows, seed in self._each()])
        order = torch.from_numpy(orders).to(device).view(*self._stack, size)
        labels = self._labels[order]
        targets = labels.unsqueeze(-1) if self._eye is None else self._eye[labels]
        self._draw_masks(epoch)
        steps = steps_per_epoch(settings, size)
        total = steps * settings.num_epochs
        for step in range(steps):
            start, stop = step * settings.batch_size, min((step + 1) * settings.batch_size, size)
            part = (..., slice(start, stop), slice(None))
            rows = order[..., start:stop].reshape(-1)
            rate = learning_rate(settings, (epoch - 1) * steps + step, total)
            if self.on_step is not None:
                self.on_step(dict(zip(self._arch.names, self._named(), strict=True)), rows, rate)
            self._step(
                self._buffers[stop - start],
                rows,
                targets[part],
                [None if mask is None else mask[part] for mask in self._masks],
                rate,
            )

    def _each(self) -> zip[tuple[np.ndarray, int]]:
        return zip(self._indices, self._seeds, strict=True)

    def _step(
        self, buffers: _Buffers, rows: Tensor, targets: Tensor, masks: Sequence[Tensor | None], rate: float
    ) -> None:
        multiply, scales, last = self._multiply, self._scales, self._arch.num_layers - 1
        torch.index_select(self._inputs, 0, rows, out=buffers.gathered)
        activations, deltas = buffers.activations, buffers.deltas
        for layer in range(last + 1):
            out = activations[layer + 1]
            multiply(self._biases[layer], activations[layer], self._weights_t[layer], alpha=scales[layer], out=out)
            if layer < last:
                out.relu_()
                mask = masks[layer]
                if mask is not None:
                    out.mul_(mask)
        if self._eye is None:
            torch.sub(activations[-1], targets, out=deltas[last])
            deltas[last].mul_(2)
        else:
            torch.softmax(activations[-1], -1, out=deltas[last])
            deltas[last].sub_(targets)
        for layer in range(last, -1, -1):
            if layer:  # before this layer's weights change
                below, scale = deltas[layer - 1], scales[layer]
                multiply(below, deltas[layer], self._weights[layer], beta=0, alpha=scale, out=below)
                # An activation is 0 exactly where relu or dropout stopped it, so one pass does both.
                _threshold_backward(below, activations[layer], 0, grad_input=below)
            self._accumulate(layer, buffers, rate)
        if self._settings.momentum:
            if self._settings.weight_decay:
                foreach_add(self._velocities, self._parameters, alpha=self._settings.weight_decay)
            foreach_add(self._parameters, self._velocities, alpha=-rate)

    def _accumulate(self, layer: int, buffers: _Buffers, rate: float) -> None:
        """Add this layer's gradient to its velocity; without momentum, straight to the parameters."""
        settings = self._settings
        if settings.momentum:
            weight, bias = self._weight_velocities[layer], self._bias_velocities[layer]
            beta, alpha = settings.momentum, 1 / buffers.batch
        else:
            weight, bias = self._weights[layer], self._biases[layer]
            beta, alpha = 1 - rate * settings.weight_decay, -rate / buffers.batch
        delta, delta_t = buffers.deltas[layer], buffers.deltas_t[layer]
        scaled = alpha * self._scales[layer]
        self._multiply(weight, delta_t, buffers.activations[layer], beta=beta, alpha=scaled, out=weight)
        self._multiply(bias, buffers.ones, delta, beta=beta, alpha=alpha, out=bias)
