"""Which calls explain a parameter's gradient, and how: ``∇W ℓ_i`` from what went in and the gradient of what came out.

A call is explained when every example's gradient follows from its own part of the leading axis: ``[b·r, …]`` for b
examples, where r > 1 is positions folded behind the example (``x.view(-1, d)``). What cannot be told from a call alone
(examples in another axis, a further use of the parameter) shows in sums, which are compared with autograd's.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional

from tda_backend.numerics.features.per_example.calls import Explanation, Rule, Setting
from tda_backend.numerics.features.per_example.layer_rules import (
    CONVOLUTION,
    TRANSPOSED,
    addmm,
    any_convolution,
    embedding,
    embedding_bag,
    linear,
    matmul,
    norm,
)
from tda_backend.numerics.features.per_example.spread_rules import expand, multiply, sum_of

_RULES: dict[Any, Rule] = {
    functional.linear: linear,
    functional.conv1d: any_convolution(CONVOLUTION),
    functional.conv2d: any_convolution(CONVOLUTION),
    functional.conv3d: any_convolution(CONVOLUTION),
    functional.conv_transpose1d: any_convolution(TRANSPOSED),
    functional.conv_transpose2d: any_convolution(TRANSPOSED),
    functional.conv_transpose3d: any_convolution(TRANSPOSED),
    functional.layer_norm: norm(functional.layer_norm, channels=False),
    functional.rms_norm: norm(functional.rms_norm, channels=False),
    functional.group_norm: norm(functional.group_norm, channels=True),
    functional.batch_norm: norm(functional.batch_norm, channels=True),
    functional.instance_norm: norm(functional.instance_norm, channels=True),
    functional.embedding: embedding,
    functional.embedding_bag: embedding_bag,
}
_BY_NAME: dict[str, Rule] = {
    **dict.fromkeys(("add", "add_"), sum_of(1.0)),
    **dict.fromkeys(("sub", "sub_"), sum_of(-1.0)),
    "mul": multiply,
    **dict.fromkeys(("expand", "expand_as", "broadcast_to", "repeat"), expand),
    **dict.fromkeys(("matmul", "mm"), matmul),
    "addmm": addmm,
}


def explain(func: Any, args: tuple, kwargs: dict[str, Any], output: Any, setting: Setting) -> list[Explanation]:
    """Return what a call says of the gradients of its arguments; nothing where no rule fits."""
    rule = _RULES.get(func) or _BY_NAME.get(getattr(func, "__name__", ""))
    if rule is None or not isinstance(output, Tensor) or not output.requires_grad:
        return []
    return [each for each in rule(args, kwargs, output, setting) if each.argument.requires_grad and each.folded]
