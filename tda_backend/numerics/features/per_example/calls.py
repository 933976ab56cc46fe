"""A call that uses a parameter, and what explains the parameter's gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tda_backend.numerics.features.per_example.contributions import Contribution


@dataclass(frozen=True)
class Setting:
    """Where a call is made.

    Attributes:
        size: b.
        dtype: Of the gradients.
        attention_batch: Examples in the second axis, inside ``multi_head_attention_forward``; else ``None``.
        of_batch: Whether a tensor is computed from the examples.
        of_parameters: Whether a tensor is computed from trainable parameters and from no example.
    """

    size: int
    dtype: torch.dtype
    attention_batch: int | None
    of_batch: Callable[[Tensor], bool]
    of_parameters: Callable[[Tensor], bool]

    def folded(self, x: Tensor) -> int:
        """Return r where the leading axis is ``b·r`` (the second, inside attention); 0 where it is not."""
        if x.ndim < 2 or not self.of_batch(x):
            return 0
        leading = self.attention_batch if self.attention_batch is not None else x.shape[0]
        return 0 if leading % self.size else leading // self.size

    def positions(self, x: Tensor) -> Tensor:
        """Return what every example sees, ``[b, 1, t, d]``."""
        if self.attention_batch is not None:  # [t, b, d] or [t·b, d]
            x = x.reshape(-1, self.attention_batch, x.shape[-1]).transpose(0, 1)
        return x.reshape(self.size, 1, -1, x.shape[-1]).to(self.dtype)


@dataclass(frozen=True)
class Explanation:
    """How one argument of a call gets its gradients.

    Attributes:
        argument: A trainable parameter, a view of one, or what is computed from parameters alone.
        kind: Name of the rule.
        folded: r.
        kept: Tensors that must not change before the gradients are formed.
        numbers: Numbers that forming them takes, beside the gradient of the output.
        form: (gradient of the output, first entry of the argument) → contribution.
    """

    argument: Tensor
    kind: str
    folded: int
    kept: tuple[Tensor, ...]
    numbers: int
    form: Callable[[Tensor, int], Contribution]


Rule = Callable[[tuple, dict[str, Any], Tensor, Setting], list[Explanation]]
