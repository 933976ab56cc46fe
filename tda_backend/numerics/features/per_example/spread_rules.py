"""Rules for what is the same for all examples and is spread over them: positions, class tokens, scales, biases."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tda_backend.numerics.features.per_example.calls import Explanation, Rule, Setting
from tda_backend.numerics.features.per_example.contributions import Dense

SPREAD = "spread"
"""The kind of these explanations, whose argument may be computed from parameters."""


def _spread(
    argument: Any, other: Any, output: Tensor, setting: Setting, factor: Tensor | float | None = None
) -> list[Explanation]:
    """Explain an argument that is spread over the examples by the sum of what comes back, times a factor."""
    if not isinstance(argument, Tensor) or not setting.of_parameters(argument) or output.ndim < argument.ndim:
        return []
    if isinstance(other, Tensor) and setting.of_parameters(other):
        return []
    shape = (1,) * (output.ndim - argument.ndim) + tuple(argument.shape)
    if not output.ndim or shape[0] != 1 or output.shape[0] % setting.size or setting.attention_batch is not None:
        return []
    if any(own not in (1, whole) for own, whole in zip(shape, output.shape, strict=True)):  # repeated along an axis
        return []
    folded = output.shape[0] // setting.size

    def form(delta: Tensor, first: int) -> Dense:
        delta = delta.to(setting.dtype)
        values = (delta if factor is None else delta * factor).unflatten(0, (setting.size, folded))
        axes = [1, *(axis + 1 for axis in range(1, len(shape)) if shape[axis] == 1)]
        return Dense(first, values.sum(axes).reshape(setting.size, -1))

    kept = (factor,) if isinstance(factor, Tensor) else ()
    return [Explanation(argument, SPREAD, folded, kept, sum(x.numel() for x in kept), form)]


def sum_of(sign: float) -> Rule:
    """Explain ``x + sign·y``."""

    def rule(args: tuple, kwargs: dict[str, Any], output: Tensor, setting: Setting) -> list[Explanation]:
        if len(args) != 2 or kwargs:
            return []
        x, y = args
        return _spread(x, y, output, setting) + _spread(y, x, output, setting, sign)

    return rule


def multiply(args: tuple, kwargs: dict[str, Any], output: Tensor, setting: Setting) -> list[Explanation]:
    """Explain ``x ∘ y``."""
    if len(args) != 2 or kwargs:
        return []
    x, y = (each.detach() if isinstance(each, Tensor) else each for each in args)
    return _spread(args[0], args[1], output, setting, y) + _spread(args[1], args[0], output, setting, x)


def expand(args: tuple, kwargs: dict[str, Any], output: Tensor, setting: Setting) -> list[Explanation]:
    """Explain a copy for each example."""
    return _spread(args[0], None, output, setting)
