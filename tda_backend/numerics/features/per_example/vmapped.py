"""Per-example gradients of some parameters by ``vmap``, for whatever uses them in whatever way."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from tda_backend.errors import ran_out_of_memory
from tda_backend.models.probe import Probe
from tda_backend.numerics.features.streaming import Quantity, graph_values
from tda_backend.types import Batch


def plain(grad: Tensor) -> Tensor:
    """Return a gradient as an ordinary tensor; those of sparse embeddings are not."""
    return grad.to_dense() if grad.is_sparse else grad


class _Value(nn.Module):
    """Makes a task's value of a batch the forward pass, so that parameters can be substituted under vmap."""

    def __init__(self, probe: Probe, quantity: Quantity) -> None:
        super().__init__()
        self.model = probe.model
        self._probe = probe
        self._quantity: Quantity = quantity

    def forward(self, batch: Batch) -> Tensor:
        return graph_values(self._probe, batch, self._quantity)


def differentiator(probe: Probe, quantity: Quantity, names: Sequence[str]) -> Callable[[Batch], dict[str, Tensor]]:
    """Return a function from a batch to per-example gradients ``[b, *shape]`` of the named parameters.

    It is called in a :func:`gradient_pass`. Examples that ``vmap`` cannot handle (data-dependent control flow) are
    differentiated one by one.
    """
    value = _Value(probe, quantity)
    parameters = dict(probe.model.named_parameters())
    chosen = {f"model.{name}": parameters[name].detach() for name in dict.fromkeys(names)}

    def single(substitute: dict[str, Tensor], example: Batch) -> Tensor:
        batch = {key: tensor[None] for key, tensor in example.items()}
        return torch.func.functional_call(value, substitute, (batch,))[0]

    vectorised = torch.func.vmap(torch.func.grad(single), in_dims=(None, 0))

    def one_by_one(batch: Batch) -> dict[str, Tensor]:
        targets = [parameters[name.removeprefix("model.")] for name in chosen]
        rows = []
        with torch.enable_grad():
            for index in range(len(next(iter(batch.values())))):
                total = value({key: tensor[index : index + 1] for key, tensor in batch.items()}).sum()
                grads = torch.autograd.grad(total, targets, allow_unused=True, materialize_grads=True)
                rows.append([plain(grad) for grad in grads])
        return {name: torch.stack([row[i] for row in rows]) for i, name in enumerate(chosen)}

    fallback = False

    def gradient(batch: Batch) -> dict[str, Tensor]:
        nonlocal fallback
        if not fallback:
            try:
                result = vectorised(chosen, dict(batch))
                return {name.removeprefix("model."): tensor for name, tensor in result.items()}
            except RuntimeError as error:
                if ran_out_of_memory(error):
                    raise
                # Data-dependent control flow or an operation without a batching rule; one by one is always right, and
                # raises the model's own error if that was the cause.
                fallback = True
        return {name.removeprefix("model."): tensor for name, tensor in one_by_one(batch).items()}

    return gradient
