"""Rules for layers: products, convolutions, norms and tables."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tda_backend.numerics.features.per_example.calls import Explanation, Rule, Setting
from tda_backend.numerics.features.per_example.contributions import Dense, Outer, Rows
from tda_backend.numerics.features.per_example.patches import Window, convolution_factors, transposed_factors

_EMBEDDING, _EMBEDDING_BAG = inspect.signature(functional.embedding), inspect.signature(functional.embedding_bag)


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


def linear(args: tuple, kwargs: dict[str, Any], output: Tensor, setting: Setting) -> list[Explanation]:
    """Explain ``functional.linear``, whole or with some rows of a packed weight."""
    given: dict[str, Any] = {"bias": None} | dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
    return _product(given["input"], given["weight"], setting) + _bias(given["bias"], given["input"], setting)


def matmul(args: tuple, kwargs: dict[str, Any], output: Tensor, setting: Setting) -> list[Explanation]:
    """Explain ``x @ W``, where W is a parameter or the transpose of one."""
    if len(args) != 2 or kwargs or args[1].ndim != 2:
        return []
    return _product(args[0], args[1].T, setting)


def addmm(args: tuple, kwargs: dict[str, Any], output: Tensor, setting: Setting) -> list[Explanation]:
    """Explain ``bias + x @ W``."""
    if len(args) != 3 or kwargs:
        return []
    return _product(args[1], args[2].T, setting) + _bias(args[0], args[1], setting)


CONVOLUTION = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
TRANSPOSED = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
_DEFAULTS = {"bias": None, "stride": 1, "padding": 0, "output_padding": 0, "dilation": 1, "groups": 1}


def any_convolution(names: Sequence[str]) -> Rule:
    """Return the rule for convolutions, or transposed ones, of any dimension; ``names`` are those of its arguments."""

    def rule(args: tuple, kwargs: dict[str, Any], output: Tensor, setting: Setting) -> list[Explanation]:
        given = _DEFAULTS | dict(zip(names, args, strict=False)) | kwargs
        x, weight = given["input"], given["weight"]
        window = Window.of(weight, given["stride"], given["padding"], given["dilation"])
        if x.ndim != weight.ndim:  # one example without a leading axis
            return []
        kept, groups = x.detach(), given["groups"]
        factors = convolution_factors if names is CONVOLUTION else transposed_factors

        def form(delta: Tensor, first: int) -> Outer:
            a, d = factors(kept.to(setting.dtype), delta.to(setting.dtype), window, groups)
            return Outer(first, _behind_groups(a, setting.size), _behind_groups(d, setting.size))

        pixels = (output if names is CONVOLUTION else x)[0, 0].numel() * len(x)
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


def norm(func: Callable[..., Tensor], channels: bool) -> Rule:
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


def embedding(args: tuple, kwargs: dict[str, Any], output: Tensor, setting: Setting) -> list[Explanation]:
    """Explain a table by the rows that are looked up; the padding row has no gradient."""
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


def embedding_bag(args: tuple, kwargs: dict[str, Any], output: Tensor, setting: Setting) -> list[Explanation]:
    """Explain a table whose rows are added, averaged or weighted; bags are the rows of the index."""
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
