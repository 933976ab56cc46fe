"""Jacobian products of any model by reverse mode, for several vectors at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tda_backend.errors import ran_out_of_memory


class Linearised:
    """J v and Jᵀu of values that depend on the parameters.

    Reverse mode only: Jᵀu is linear in u, so J v is its derivative in u along v. Forward mode lacks rules for some
    operations; a second backward pass exists wherever a Hessian product does.
    """

    def __init__(self, values: Tensor, parameters: Sequence[Tensor]) -> None:
        self._values, self._parameters = values, parameters
        self._dummy = torch.zeros_like(values, requires_grad=True)
        self._pullback = torch.autograd.grad(
            values, parameters, self._dummy, create_graph=True, allow_unused=True, materialize_grads=True
        )

    def push(self, vectors: Sequence[Tensor]) -> Tensor:
        """Return J v, ``[q, *values.shape]``."""
        return pulled_back(self._pullback, [self._dummy], vectors)[0].detach()

    def pull(self, cotangents: Tensor) -> Tensor:
        """Return Jᵀu, ``[q, p]``."""
        parts = pulled_back([self._values], self._parameters, [cotangents])
        return torch.cat([part.reshape(len(part), -1) for part in parts], 1).detach()


def pulled_back(outputs: Sequence[Tensor], inputs: Sequence[Tensor], vectors: Sequence[Tensor]) -> list[Tensor]:
    """Return ``Σ_o v_oᵀ ∂output_o/∂input`` for stacked v ``[q, *output.shape]``: one ``[q, *shape]`` per input.

    All vectors go together under vmap; where an operation has no rule for it, one by one.
    """
    pairs = [(output, vector) for output, vector in zip(outputs, vectors, strict=True) if output.requires_grad]
    num = len(vectors[0])
    if not pairs:
        return [input.new_zeros(num, *input.shape) for input in inputs]
    kept, chosen = zip(*pairs, strict=True)
    try:
        grads = torch.autograd.grad(kept, inputs, chosen, retain_graph=True, allow_unused=True, is_grads_batched=True)
    except RuntimeError as error:
        if ran_out_of_memory(error):
            raise
        # One by one is always right, and raises the model's own error if that was the cause.
        single = [
            torch.autograd.grad(
                kept,
                inputs,
                [vector[i] for vector in chosen],
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
            for i in range(num)
        ]
        return [torch.stack(same) for same in zip(*single, strict=True)]
    return [
        input.new_zeros(num, *input.shape) if grad is None else grad for grad, input in zip(grads, inputs, strict=True)
    ]
