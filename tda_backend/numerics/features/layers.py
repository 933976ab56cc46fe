"""Per-example layer inputs and output gradients of Linear, Conv and attention layers: ``∇W ℓ_i = Σ_t δ_it a_itᵀ``.

Calls of ``torch.nn.functional.linear``, ``conv1d`` and ``conv2d`` are recognised by the *parameter* they are given, not
by module hooks, so packed attention projections, subclasses and functional calls are seen alike. One backward pass of
the sum over a batch gives every example's own δ, because examples do not interact in eval mode. The bias is a
homogeneous 1 appended to a. Kronecker-factored curvature (Martens & Grosse 2015; Grosse & Martens 2016 for
convolutions; Grosse et al. 2023 for influence) rests on these factors.

A position t is one place where the weight is applied: a token, an output pixel, a further call of the same layer, or a
channel group (whose δ is zero outside the group's outputs, which makes grouped convolutions exact).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

import torch
from torch import Tensor, nn

from tda_backend.errors import NumericalError, TaskError
from tda_backend.models.precision import FULL, forward_in
from tda_backend.models.probe import Group, Probe, in_float64
from tda_backend.numerics.features.factors import CHECKED, HALF_TOLERANCE, LayerFactors
from tda_backend.numerics.features.recording import Call, CallRecorder
from tda_backend.numerics.features.streaming import Quantity, gradient_pass, graph_values, over_batches

UntrackedPolicy: TypeAlias = Literal["refuse", "leave-out"]
UNTRACKED_POLICIES: tuple[UntrackedPolicy, ...] = ("refuse", "leave-out")

ValueFunction: TypeAlias = Callable[[nn.Module, dict[str, Tensor], slice], Tensor]
"""(model, batch on the device, positions among the group's rows) → one value per example, ``[b]``."""

_TOLERANCE = 1e-3
"""Relative difference allowed between the factors' weighted sum and autograd's, in float32 (measured: 1e-6)."""


@dataclass(frozen=True)
class TrackedLayer:
    """One weight whose per-example gradient is kept as factors.

    Attributes:
        name: Module name, with ``.in_proj`` (or ``.q_proj``, ``.k_proj``, ``.v_proj``) for packed attention weights.
        weight: Name of the weight parameter.
        bias: Name of the bias parameter, or ``None`` where there is no trainable bias.
        bias_rows: Rows of the bias parameter that belong to this weight.
        shape: (d_out, d_in) of the gradient matrix; d_in counts the homogeneous 1 of a bias.
    """

    name: str
    weight: str
    bias: str | None
    bias_rows: slice
    shape: tuple[int, int]

    def matrix(self, gradients: dict[str, Tensor]) -> Tensor:
        """Return the layer's gradient matrix ``[d_out, d_in]`` from gradients by parameter name.

        The bias becomes the last *column*: reshaping [vec W; b] straight to (d_out, d_in) would scramble rows.
        """
        weight = gradients[self.weight].flatten(1)
        if self.bias is None:
            return weight
        return torch.cat([weight, gradients[self.bias][self.bias_rows, None]], dim=1)


@dataclass(frozen=True)
class LayerBatch:
    """Factors of one batch.

    Attributes:
        rows: Positions among the group's rows.
        values: ``[b]`` the differentiated quantity.
        layers: By layer name: inputs ``[b, d_in]`` or ``[b, t, d_in]``, deltas ``[b, d_out]`` or ``[b, t, d_out]``,
            on the device, in the model's dtype.
    """

    rows: slice
    values: Tensor
    layers: dict[str, LayerFactors]


def tracked_layers(model: nn.Module, untracked: UntrackedPolicy = "refuse") -> tuple[TrackedLayer, ...]:
    """Return the layers whose gradients have factors, in model order.

    Args:
        model: Any model.
        untracked: What to do about trainable parameters outside such layers: ``refuse``, or ``leave-out`` of the
            curvature and the scores.

    Raises:
        TaskError: No layer is tracked, or some are not and the policy is ``refuse``.
    """
    if untracked not in UNTRACKED_POLICIES:
        raise TaskError(f"Unknown policy untracked = {untracked!r}.", f"Allowed: {', '.join(UNTRACKED_POLICIES)}.")
    layers = _find_layers(model)
    outside = _outside(model, layers)
    if not layers:
        raise TaskError(
            "The model has no Linear, Conv1d, Conv2d or attention projection with a trainable weight of its own.",
            "Kronecker-factored curvature needs one; use iffim with dense gradients for this model.",
        )
    if outside and untracked == "refuse":
        size, total = sum(count for _, count in outside), sum(p.numel() for p in model.parameters() if p.requires_grad)
        names = ", ".join(name for name, _ in outside[:8]) + (f" and {len(outside) - 8} more" * (len(outside) > 8))
        raise TaskError(
            f"Kronecker-factored curvature cannot track {names}: {size} of {total} parameters "
            "(norms, embeddings and weights shared between modules).",
            'Set untracked = "leave-out" to attribute without them, or use iffim with dense gradients.',
        )
    return layers


def untracked(model: nn.Module) -> list[tuple[str, int]]:
    """Return (name, number of parameters) of every trainable parameter outside tracked layers, in model order."""
    return _outside(model, _find_layers(model))


def _outside(model: nn.Module, layers: Sequence[TrackedLayer]) -> list[tuple[str, int]]:
    inside = {layer.weight for layer in layers} | {layer.bias for layer in layers}
    return [(name, p.numel()) for name, p in model.named_parameters() if p.requires_grad and name not in inside]


def _find_layers(model: nn.Module) -> tuple[TrackedLayer, ...]:
    uses: dict[int, int] = {}
    for _, parameter in model.named_parameters(remove_duplicate=False):
        uses[id(parameter)] = uses.get(id(parameter), 0) + 1

    def own(parameter: Tensor | None) -> bool:  # trainable, and of this module alone
        return isinstance(parameter, nn.Parameter) and parameter.requires_grad and uses[id(parameter)] == 1

    layers = []
    for prefix, module in model.named_modules():
        dot = f"{prefix}." if prefix else ""
        pairs: list[tuple[str, str, str, int]] = []  # layer, weight, bias, first row of the bias
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
            pairs = [(prefix or "model", "weight", "bias", 0)]
        elif isinstance(module, nn.MultiheadAttention):
            width = module.embed_dim
            separate = [
                (f"{dot}{k}_proj", f"{k}_proj_weight", "in_proj_bias", i * int(width)) for i, k in enumerate("qkv")
            ]
            packed = [(f"{dot}in_proj", "in_proj_weight", "in_proj_bias", 0)]
            pairs = packed if module._qkv_same_embed_dim else separate
        for name, weight_name, bias_name, first in pairs:
            weight, bias = module._parameters.get(weight_name), module._parameters.get(bias_name)
            if weight is None or not own(weight):
                continue
            if bias is not None and bias.requires_grad and not own(bias):
                continue  # a shared bias would be counted twice
            has_bias = bias is not None and bias.requires_grad
            rows = weight.shape[0]
            layers.append(
                TrackedLayer(
                    name,
                    dot + weight_name,
                    f"{dot}{bias_name}" if has_bias else None,
                    slice(first, first + rows),
                    (rows, weight[0].numel() + has_bias),
                )
            )
    return tuple(layers)


def layer_batches(
    probe: Probe,
    group: Group,
    quantity: Quantity | ValueFunction,
    *,
    untracked: UntrackedPolicy = "refuse",
    verify: bool = True,
) -> Iterator[LayerBatch]:
    """Yield the factors of the per-example gradients of ``quantity`` batch by batch; nothing else is kept.

    Taken in eval mode. On the first batch a *weighted* sum of the gradients is compared with autograd's, which finds a
    weight that is used in another way and examples that are not told apart by the axis they belong to. That is done in
    float32, whatever the probe's precision.

    Args:
        probe: Task, model at the checkpoint, and examples.
        group: Whose examples, in the order of the result.
        quantity: ``goodness``, ``train_loss``, or a function of (model, batch, rows).
        untracked: Policy of :func:`tracked_layers`.
        verify: Whether the first batch is compared with autograd, which takes as long as its gradients do; for other
            examples of a model for which that has been done, it need not be done again.

    Raises:
        TaskError: See :func:`tracked_layers`; or factors do not reproduce autograd's gradient.
        NumericalError: A value or a gradient is not finite; names the layer and the first example.
    """
    model = probe.model
    layers = tracked_layers(model, untracked)
    if verify and probe.precision != FULL:
        few = probe.in_full().only(group, probe.rows(group)[:CHECKED])
        for _ in layer_batches(few, group, quantity, untracked=untracked):
            pass
        verify = False

    @gradient_pass(probe)
    def passed(rows: slice, batch: dict[str, Tensor]) -> LayerBatch:
        with torch.enable_grad(), CallRecorder(model, layers) as recorder:
            values = _differentiable(probe, quantity, batch, rows)
            total = values.sum()
        calls = [call for call in recorder.calls if call.edge is not None]
        edges = [call.edge for call in calls if call.edge is not None]
        if not calls or not values.requires_grad:
            raise TaskError("The value does not depend on any tracked layer.", "Is the model called under no_grad?")
        first = verify and rows.start == 0
        # One example more or less must not matter to the others, so the sum's gradient holds every example's own.
        grads = torch.autograd.grad(total, edges, allow_unused=True, retain_graph=first)
        with torch.no_grad():
            factors, eps = _factors(layers, calls, grads, rows.stop - rows.start, probe.dtype, probe.home)
        result = LayerBatch(rows, values.detach().to(probe.home), factors)
        _refuse_non_finite(result, quantity if isinstance(quantity, str) else "value")
        if first:
            _check_against_autograd(model, layers, values, factors, max(_TOLERANCE, HALF_TOLERANCE * eps))
        return result

    for _, result in over_batches(probe, group, passed):
        yield result


def _differentiable(probe: Probe, quantity: Quantity | ValueFunction, batch: dict[str, Tensor], rows: slice) -> Tensor:
    """Return what is differentiated, ``[b]`` with its graph, in the probe's precision."""
    if isinstance(quantity, str):
        return graph_values(probe, batch, cast(Quantity, quantity))
    with forward_in(probe.precision, probe.device):
        return quantity(probe.model, batch, rows)


def _factors(
    layers: Sequence[TrackedLayer],
    calls: Sequence[Call],
    grads: Sequence[Tensor | None],
    size: int,
    dtype: torch.dtype,
    home: torch.device,
) -> tuple[dict[str, LayerFactors], float]:
    """Return the factors of a batch, kept at ``home``, and ε of the coarsest precision in which they were computed."""
    parts: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for call, grad in zip(calls, grads, strict=True):
        parts.setdefault(call.layer, []).append(call.factors(grad, size))
    result, eps = {}, 0.0
    for layer in layers:
        if layer.name not in parts:
            continue  # not part of this quantity; autograd must agree
        calls_of = parts[layer.name]  # a layer called twice has more positions
        a = torch.cat([part[0] for part in calls_of], dim=1)
        d = torch.cat([part[1] for part in calls_of], dim=1)
        eps = max(eps, *(torch.finfo(part.dtype).eps for part in (a, d)))
        a, d = a.to(home, dtype), d.to(home, dtype)
        if layer.bias is not None:
            a = torch.cat([a, a.new_ones(*a.shape[:-1], 1)], dim=-1)
        if a.shape[1] == 1:
            a, d = a[:, 0], d[:, 0]
        result[layer.name] = LayerFactors(layer.name, a, d)
    return result, eps


def _check_against_autograd(
    model: nn.Module,
    layers: Sequence[TrackedLayer],
    values: Tensor,
    factors: dict[str, LayerFactors],
    tolerance: float,
) -> None:
    """Compare Σ_i w_i Σ_t δ_it a_itᵀ with autograd's gradient of Σ_i w_i value_i, for weights that differ."""
    weights = torch.linspace(0.5, 1.5, len(values), dtype=values.dtype, device=values.device)
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    grads = torch.autograd.grad(values, list(named.values()), grad_outputs=weights, allow_unused=True)
    truth = {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(named.items(), grads, strict=True)}
    for layer in layers:
        expected = in_float64(layer.matrix(truth))
        actual = torch.zeros_like(expected)
        if layer.name in factors:
            a, d = factors[layer.name].inputs, factors[layer.name].deltas
            w = weights.to(d.device).reshape(-1, *[1] * (d.ndim - 1))
            actual = in_float64((w * d).reshape(-1, d.shape[-1]).T @ a.reshape(-1, a.shape[-1]))
        if float((actual - expected).norm()) > tolerance * float(actual.norm() + expected.norm()):
            raise TaskError(
                f"The factors of layer {layer.name!r} do not reproduce autograd's gradient.",
                "Its weight is used outside linear or convolution calls, examples interact, or the first axis does "
                "not enumerate examples; use iffim with dense gradients for this model.",
            )


def _refuse_non_finite(batch: LayerBatch, quantity: str) -> None:
    tensors = {"": batch.values}
    for name, layer in batch.layers.items():
        tensors |= {f"inputs of layer {name!r}": layer.inputs, f"gradient of layer {name!r}": layer.deltas}
    for what, tensor in tensors.items():
        if bool(torch.isfinite(tensor.sum())):
            continue
        bad = ~torch.isfinite(tensor).flatten(1).all(1) if tensor.ndim > 1 else ~torch.isfinite(tensor)
        if bool(bad.any()):
            raise NumericalError(
                f"The {quantity} is not finite{f' in the {what}' if what else ''} for {int(bad.sum())} of {len(bad)} "
                f"examples of a batch (first at position {batch.rows.start + int(bad.nonzero()[0])}).",
                "Look for NaN in the data, or for a training run that diverged.",
            )
