"""Which calls explain a parameter's gradient, and how: ``∇W ℓ_i`` from what went in and the gradient of what came out.

A call is explained when every example's gradient follows from its own part of the leading axis: ``[b·r, …]`` for b
examples, where r > 1 is positions folded behind the example (``x.view(-1, d)``). What cannot be told from a call alone
(examples in another axis, a further use of the parameter) shows in sums, which are compared with autograd's.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tda_backend.numerics.features.per_example.contributions import Contribution, Dense, Outer, Rows
from tda_backend.numerics.features.per_example.patches import Window, convolution_factors, transposed_factors


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


def explain(func: Any, args: tuple, kwargs: dict[str, Any], output: Any, setting: Setting) -> list[Explanation]:
    """Return what a call says of the gradients of its arguments; nothing where no rule fits."""
    rule = _RULES.get(func) or _BY_NAME.get(getattr(func, "__name__", ""))
    if rule is None or not isinstance(output, Tensor) or not output.requires_grad:
        return []
    return [each for each in rule(args, kwargs, output, setting) if each.argument.requires_grad and each.folded]


def _product(x: Tensor, weight: Tensor, setting: Setting) -> list[Explanation]:
    """Explain ``x @ weightᵀ``; the weight ``[d_out, d_in]`` or its transpose is contiguous."""
    if weight.ndim != 2:
        return []
    kept, turned = x.detach(), not weight.is_contiguous()

    def form(delta: Tensor, first: int) -> Outer:
        a, d = setting.positions(kept), setting.positions(delta)
        return Outer(first, d, a) if turned else Outer(first, a, d)

    argument = weight.T if turned else weight
    return [Explanation(argument, "product", setting.folded(x), (kept,), x.numel(), form)]


def _bias(bias: Tensor | None, x: Tensor, setting: Setting, spatial: bool = False) -> list[Explanation]:
    """Explain a bias added to each position: ``Σ_t δ_t``; the channels of a spatial output are its second axis."""
    if bias is None or bias.ndim != 1:
        return []

    def form(delta: Tensor, first: int) -> Outer:
        if spatial:
            d = delta.flatten(2).transpose(1, 2).reshape(setting.size, 1, -1, delta.shape[1]).to(setting.dtype)
        else:
            d = setting.positions(delta)
        return Outer(first, d.new_ones(*d.shape[:3], 1), d)

    return [Explanation(bias, "bias", setting.folded(x), (), 0, form)]


def _linear(args: tuple, kwargs: dict[str, Any], output: Tensor, setting: Setting) -> list[Explanation]:
    given: dict[str, Any] = {"bias": None} | dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
    return _product(given["input"], given["weight"], setting) + _bias(given["bias"], given["input"], setting)


def _matmul(args: tuple, kwargs: dict[str, Any], output: Tensor, setting: Setting) -> list[Explanation]:
    if len(args) != 2 or kwargs or args[1].ndim != 2:
        return []
    return _product(args[0], args[1].T, setting)


def _addmm(args: tuple, kwargs: dict[str, Any], output: Tensor, setting: Setting) -> list[Explanation]:
    if len(args) != 3 or kwargs:
        return []
    return _product(args[1], args[2].T, setting) + _bias(args[0], args[1], setting)


_CONVOLUTION = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
_DEFAULTS = {"bias": None, "stride": 1, "padding": 0, "output_padding": 0, "dilation": 1, "groups": 1}


def _any_convolution(names: Sequence[str]) -> Rule:
    def rule(args: tuple, kwargs: dict[str, Any], output: Tensor, setting: Setting) -> list[Explanation]:
        given = _DEFAULTS | dict(zip(names, args, strict=False)) | kwargs
        x, weight = given["input"], given["weight"]
        window = Window.of(weight, given["stride"], given["padding"], given["dilation"])
        if x.ndim != weight.ndim:  # one example without a leading axis
            return []
        kept, groups = x.detach(), given["groups"]
        factors = convolution_factors if names is _CONVOLUTION else transposed_factors

        def form(delta: Tensor, first: int) -> Outer:
            a, d = factors(kept.to(setting.dtype), delta.to(setting.dtype), window, groups)
            return Outer(first, _behind_groups(a, setting.size), _behind_groups(d, setting.size))

        pixels = (output if names is _CONVOLUTION else x)[0, 0].numel() * len(x)
        numbers = x.numel() + pixels * groups * weight[0].numel()
        return [
            Explanation(weight, "convolution", setting.folded(x), (kept,), numbers, form),
            *_bias(given["bias"], x, setting, spatial=True),
        ]

    return rule


def _behind_groups(x: Tensor, size: int) -> Tensor:
    """Return ``[b·r, G, t, d]`` as ``[b, G, r·t, d]``."""
    if len(x) == size:
        return x
    return x.unflatten(0, (size, -1)).transpose(1, 2).flatten(2, 3)


def _norm(func: Callable[..., Tensor], channels: bool) -> Rule:
    """Explain a norm by its elementwise weight and bias: ``Σ_t δ ∘ x̂`` and ``Σ_t δ``.

    Args:
        func: Of ``torch.nn.functional``.
        channels: Weights belong to the second axis, not to the last ones.
    """
    signature = inspect.signature(func)

    def rule(args: tuple, kwargs: dict[str, Any], output: Tensor, setting: Setting) -> list[Explanation]:
        given = dict(signature.bind(*args, **kwargs).arguments)
        x, weight, bias = given.pop("input"), given.pop("weight", None), given.pop("bias", None)
        if given.get("training") or (given.get("use_input_stats") and given.get("running_mean") is not None):
            return []  # statistics of the batch: examples interact
        kept = x.detach()
        last = () if channels else tuple(given["normalized_shape"])

        def summed(values: Tensor) -> Tensor:
            if channels:
                return values.reshape(setting.size, -1, values.shape[1], values[0, 0].numel()).sum((1, 3))
            return values.reshape(setting.size, -1, torch.Size(last).numel()).sum(1)

        def of_weight(delta: Tensor, first: int) -> Dense:
            return Dense(first, summed(delta.to(setting.dtype) * func(kept.to(setting.dtype), **given)))

        def of_bias(delta: Tensor, first: int) -> Dense:
            return Dense(first, summed(delta.to(setting.dtype)))

        result = []
        if weight is not None:
            result.append(Explanation(weight, "norm", setting.folded(x), (kept,), x.numel(), of_weight))
        if bias is not None:
            result.append(Explanation(bias, "norm", setting.folded(x), (), 0, of_bias))
        return result

    return rule


def _looked_up(index: Tensor, setting: Setting) -> int:
    """Return r of an index tensor; 0 where it has no examples (numbers of positions, the same for all)."""
    if index.ndim == 0 or index.shape[0] % setting.size:
        return 0
    if not setting.of_batch(index) and (index.ndim < 2 or index.shape[0] != setting.size):
        return 0
    return index.shape[0] // setting.size


def _embedding(args: tuple, kwargs: dict[str, Any], output: Tensor, setting: Setting) -> list[Explanation]:
    given = dict(_EMBEDDING.bind(*args, **kwargs).arguments)
    if given.get("max_norm") is not None or given.get("scale_grad_by_freq"):
        return []
    index, weight, padding = given["input"], given["weight"], given.get("padding_idx")

    def form(delta: Tensor, first: int) -> Rows:
        rows = index.reshape(setting.size, -1).long()
        deltas = delta.reshape(*rows.shape, -1).to(setting.dtype)
        if padding is not None:
            deltas = deltas.masked_fill((rows == padding % len(weight))[..., None], 0.0)
        return Rows(first, rows, deltas)

    return [Explanation(weight, "embedding", _looked_up(index, setting), (index,), index.numel(), form)]


def _embedding_bag(args: tuple, kwargs: dict[str, Any], output: Tensor, setting: Setting) -> list[Explanation]:
    given = dict(_EMBEDDING_BAG.bind(*args, **kwargs).arguments)
    index, weight, padding = given["input"], given["weight"], given.get("padding_idx")
    mode, scales = given.get("mode", "mean"), given.get("per_sample_weights")
    unusual = given.get("max_norm") is not None or given.get("scale_grad_by_freq")
    if unusual or index.ndim != 2 or mode not in ("sum", "mean") or given.get("offsets") is not None:
        return []
    scales = None if scales is None else scales.detach()

    def form(delta: Tensor, first: int) -> Rows:
        counted = torch.ones_like(index, dtype=setting.dtype)
        if padding is not None:
            counted = counted.masked_fill(index == padding % len(weight), 0.0)
        if mode == "mean":
            counted = counted / counted.sum(1, keepdim=True).clamp(min=1)
        if scales is not None:
            counted = counted * scales
        deltas = counted[..., None] * delta.to(setting.dtype)[:, None]
        rows = index.reshape(setting.size, -1).long()
        return Rows(first, rows, deltas.reshape(*rows.shape, -1))

    kept = (index,) if scales is None else (index, scales)
    numbers = index.numel() * weight.shape[1]
    return [Explanation(weight, "bag", _looked_up(index, setting), kept, numbers, form)]


def _spread(
    argument: Any, other: Any, output: Tensor, setting: Setting, weigh: Callable[[Tensor], Tensor] | None = None
) -> list[Explanation]:
    """Explain what is the same for all examples and is spread over them: the sum over what it is spread over."""
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
        values = (delta if weigh is None else weigh(delta)).unflatten(0, (setting.size, folded))
        axes = [1, *(axis + 1 for axis in range(1, len(shape)) if shape[axis] == 1)]
        return Dense(first, values.sum(axes).reshape(setting.size, -1))

    kept = (other.detach(),) if weigh is not None and isinstance(other, Tensor) else ()
    return [Explanation(argument, "spread", folded, kept, sum(x.numel() for x in kept), form)]


def _sum(sign: float) -> Rule:
    """Explain ``x + sign·y``."""

    def rule(args: tuple, kwargs: dict[str, Any], output: Tensor, setting: Setting) -> list[Explanation]:
        if len(args) != 2 or kwargs:
            return []
        x, y = args
        return _spread(x, y, output, setting) + _spread(y, x, output, setting, lambda delta: sign * delta)

    return rule


def _multiply(args: tuple, kwargs: dict[str, Any], output: Tensor, setting: Setting) -> list[Explanation]:
    if len(args) != 2 or kwargs:
        return []
    x, y = (each.detach() if isinstance(each, Tensor) else each for each in args)
    return _spread(args[0], y, output, setting, lambda delta: delta * y) + _spread(
        args[1], x, output, setting, lambda delta: delta * x
    )


def _expand(args: tuple, kwargs: dict[str, Any], output: Tensor, setting: Setting) -> list[Explanation]:
    return _spread(args[0], None, output, setting)


_EMBEDDING, _EMBEDDING_BAG = inspect.signature(functional.embedding), inspect.signature(functional.embedding_bag)

_RULES: dict[Any, Rule] = {
    functional.linear: _linear,
    functional.conv1d: _any_convolution(_CONVOLUTION),
    functional.conv2d: _any_convolution(_CONVOLUTION),
    functional.conv3d: _any_convolution(_CONVOLUTION),
    functional.conv_transpose1d: _any_convolution(_TRANSPOSED),
    functional.conv_transpose2d: _any_convolution(_TRANSPOSED),
    functional.conv_transpose3d: _any_convolution(_TRANSPOSED),
    functional.layer_norm: _norm(functional.layer_norm, channels=False),
    functional.rms_norm: _norm(functional.rms_norm, channels=False),
    functional.group_norm: _norm(functional.group_norm, channels=True),
    functional.batch_norm: _norm(functional.batch_norm, channels=True),
    functional.instance_norm: _norm(functional.instance_norm, channels=True),
    functional.embedding: _embedding,
    functional.embedding_bag: _embedding_bag,
}
_BY_NAME: dict[str, Rule] = {
    **dict.fromkeys(("add", "add_"), _sum(1.0)),
    **dict.fromkeys(("sub", "sub_"), _sum(-1.0)),
    "mul": _multiply,
    **dict.fromkeys(("expand", "expand_as", "broadcast_to", "repeat"), _expand),
    **dict.fromkeys(("matmul", "mm"), _matmul),
    "addmm": _addmm,
}
