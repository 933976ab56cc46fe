"""Per-example gradients of Linear layers as rank-one factors: ``∇W ℓ_i = Σ_t δ_it a_itᵀ``, never an n × p matrix.

One backward pass of the *sum* over a batch gives every example's own δ, because examples do not interact in eval
mode. The bias is a homogeneous 1 appended to a.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tda_backend.errors import NumericalError, TaskError
from tda_backend.finite import all_finite
from tda_backend.models.precision import FULL
from tda_backend.models.probe import Group, Probe
from tda_backend.numerics.features.streaming import Quantity, gradient_pass, graph_values, naming_group, over_batches
from tda_backend.types import Batch

_FACTOR_TOLERANCE = 1e-3
"""Relative difference allowed between the factors' summed gradient and autograd's, in float32 (measured: 1e-6)."""
HALF_TOLERANCE = 4
"""The same where autocast computes in half precision, in units of its ε."""
CHECKED = 16
"""Examples whose factors are compared in float32 where they are passed in less."""
_ROWS = 1024


@dataclass(frozen=True)
class LayerFactors:
    """Factors of one Linear layer for N examples.

    Attributes:
        name: Module name.
        inputs: a, ``[N, d_in]`` or, with several positions per example, ``[N, t, d_in]``; d_in counts the homogeneous
            1 of a bias.
        deltas: δ = ∂value/∂output, ``[N, d_out]`` or ``[N, t, d_out]``.
    """

    name: str
    inputs: Tensor
    deltas: Tensor

    @property
    def num_parameters(self) -> int:
        return self.inputs.shape[-1] * self.deltas.shape[-1]


@dataclass(frozen=True)
class GradientFactors:
    """Factors of N gradient vectors over all Linear layers of a model."""

    layers: tuple[LayerFactors, ...]

    @property
    def num_vectors(self) -> int:
        return self.layers[0].inputs.shape[0]

    @property
    def device(self) -> torch.device:
        return self.layers[0].inputs.device

    def to(self, device: torch.device | str) -> GradientFactors:
        """Return the same factors on a device."""
        return GradientFactors(
            tuple(LayerFactors(f.name, f.inputs.to(device), f.deltas.to(device)) for f in self.layers)
        )

    @property
    def num_parameters(self) -> int:
        return sum(layer.num_parameters for layer in self.layers)

    def select(self, rows: slice | Sequence[int] | Tensor) -> GradientFactors:
        """Return the factors of some of the vectors."""
        index = rows if isinstance(rows, slice) else torch.as_tensor(rows)
        return GradientFactors(tuple(LayerFactors(f.name, f.inputs[index], f.deltas[index]) for f in self.layers))

    def squared_norms(self) -> Tensor:
        """Return ‖g_i‖² as ``[N]`` float64."""
        total = torch.zeros(self.num_vectors, dtype=torch.float64, device=self.device)
        for layer in self.layers:
            a, d = layer.inputs.to(torch.float64), layer.deltas.to(torch.float64)
            if a.ndim == 2:
                total += (a * a).sum(1) * (d * d).sum(1)
            else:
                total += ((a @ a.transpose(1, 2)) * (d @ d.transpose(1, 2))).sum((1, 2))
        return total


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """Return the Linear layers whose gradient is rank-one: exactly ``nn.Linear``, trainable, sharing no parameter."""
    uses: dict[int, int] = {}
    for _, parameter in model.named_parameters(remove_duplicate=False):
        uses[id(parameter)] = uses.get(id(parameter), 0) + 1
    layers = {}
    for name, module in model.named_modules():
        # Subclasses may use their weight without calling forward (the output projection of MultiheadAttention does).
        if type(module) is nn.Linear and module.weight.requires_grad:
            own = [p for p in (module.weight, module.bias) if p is not None]
            if all(uses.get(id(parameter), 0) == 1 for parameter in own):
                layers[name] = module
    return layers


def untracked_parameters(model: nn.Module) -> list[str]:
    """Return the names of trainable parameters that lie outside plain Linear layers, in model order."""
    tracked = set()
    for module in linear_layers(model).values():
        tracked |= {id(p) for p in (module.weight, module.bias) if p is not None and p.requires_grad}
    return [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in tracked]


def num_factor_numbers(model: nn.Module, examples: Batch) -> int:
    """Return how many numbers the factors of one example's gradient are, as far as shapes tell.

    Args:
        model: Its Linear layers see one position, or as many as an input has whose last axis the first of them takes.
        examples: Of which shape inputs are.
    """
    layers = list(linear_layers(model).values())
    width = layers[0].in_features if layers else 0
    fitting = [value for value in examples.values() if value.ndim > 2 and value.shape[-1] == width]
    positions = max((math.prod(value.shape[1:-1]) for value in fitting), default=1)
    return positions * sum(layer.in_features + layer.out_features + (layer.bias is not None) for layer in layers)


class _Recorder:
    """Forward hooks that copy every Linear layer's input and keep its output for the backward pass."""

    def __init__(self, model: nn.Module) -> None:
        self.inputs: dict[str, list[Tensor]] = {}
        self.outputs: dict[str, list[Tensor]] = {}
        self._names = tuple(linear_layers(model))
        self._hooks = [module.register_forward_hook(self._hook(name)) for name, module in linear_layers(model).items()]

    def _hook(self, name: str):
        def record(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
            self.inputs.setdefault(name, []).append(arguments[0].detach().clone())
            self.outputs.setdefault(name, []).append(output)
            # The rest of the model gets a copy: an in-place activation would otherwise turn the kept output into
            # the activation's result, and δ into the wrong derivative.
            return output.clone()

        return record

    def called(self) -> list[str]:
        """Return the layers that were called, in model order."""
        return [name for name in self._names if name in self.outputs]

    def clear(self) -> None:
        self.inputs.clear()
        self.outputs.clear()

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()


def linear_factors(
    probe: Probe, group: Group, quantity: Quantity, *, verify: bool = True
) -> tuple[GradientFactors, Tensor]:
    """Return the factors of the per-example gradients of ``quantity``, and its values.

    Taken in eval mode, batch by batch; the factors (at the probe's home, in the model's dtype) are all that is kept.
    On the first batch the summed gradient is compared with autograd's, so a model that uses a Linear layer's weight in
    another way is refused instead of answered wrongly; in float32, whatever the probe's precision.

    Args:
        probe: All trainable parameters of its model must lie in plain Linear layers.
        group: Whose N examples, in the order of the result.
        quantity: ``goodness`` or ``train_loss``.
        verify: Compare with autograd; ``False`` only for further calls with a model that has passed.

    Returns:
        Factors of N vectors and the values ``[N]``.

    Raises:
        TaskError: Parameters lie outside Linear layers, or the layers' axes cannot be told apart per example.
        NumericalError: A value or a factor is not finite.
    """
    _refuse_untracked(probe)
    store = _FactorStore(probe.model, probe.count(group), probe.dtype, probe.home)
    values = _fill(store, 0, probe, group, quantity, verify=verify)
    return store.factors(), values


def joined_factors(probe: Probe, named: Sequence[tuple[str, tuple[Group, Quantity]]]) -> GradientFactors:
    """Return :func:`linear_factors` of several requests one after the other; raises the same.

    All are written into one place: no part of them is held twice.

    Args:
        probe: As there.
        named: What errors call a request's examples, with whose gradients of what it asks for.
    """
    _refuse_untracked(probe)
    total = sum(probe.count(group) for _, (group, _) in named)
    store, first = _FactorStore(probe.model, total, probe.dtype, probe.home), 0
    for name, (group, quantity) in named:
        with naming_group(name):
            _fill(store, first, probe, group, quantity, verify=True)
        first += probe.count(group)
    return store.factors()


def _fill(store: _FactorStore, first: int, probe: Probe, group: Group, quantity: Quantity, *, verify: bool) -> Tensor:
    """Write the factors of a group's examples into rows from ``first`` on, and return their values."""
    model, count = probe.model, probe.count(group)
    if verify and probe.precision != FULL:
        linear_factors(probe.in_full().only(group, probe.rows(group)[:CHECKED]), group, quantity)
        verify = False
    values = torch.empty(count, dtype=probe.dtype, device=probe.home)
    recorder = _Recorder(model)

    def pass_batch(rows: slice, batch: Batch) -> Tensor:
        recorder.clear()
        result = graph_values(probe, batch, quantity)
        check, place = verify and rows.start == 0, slice(first + rows.start, first + rows.stop)
        store.add(_differentiate(recorder, result, rows, keep_graph=check), place)
        if check:
            _check_against_autograd(model, result, store, place)
        return result.detach().to(values.dtype)

    try:
        with gradient_pass(probe), torch.enable_grad():
            for rows, found in over_batches(probe, group, pass_batch):
                values[rows] = found
    finally:
        recorder.remove()
    _refuse_non_finite(store.factors().select(slice(first, first + count)), values, quantity)
    return values


def _refuse_untracked(probe: Probe) -> None:
    outside = untracked_parameters(probe.model)
    if outside or not linear_layers(probe.model):
        raise TaskError(
            f"Parameters of task {probe.task.name!r} lie outside Linear layers: {', '.join(outside[:8]) or 'all'}"
            f"{f' and {len(outside) - 8} more' if len(outside) > 8 else ''}.",
            "Rank-one factors exist for plain nn.Linear layers only; use dense gradients for this model.",
        )


class _FactorStore:
    """Inputs and deltas of every Linear layer for N examples, filled batch by batch.

    Attributes:
        parts: Layer → inputs and deltas.
        eps: Layer → ε of the coarser of the two, as they were computed.
        home: Where they are kept.
    """

    def __init__(self, model: nn.Module, num: int, dtype: torch.dtype, home: torch.device) -> None:
        self.parts: dict[str, tuple[Tensor, Tensor]] = {}
        self.eps: dict[str, float] = {}
        self._num, self._dtype, self.home = num, dtype, home
        self._biased = {
            name: module.bias is not None and module.bias.requires_grad for name, module in linear_layers(model).items()
        }

    def factors(self) -> GradientFactors:
        """Return what is kept; not copied."""
        return GradientFactors(tuple(LayerFactors(name, a, d) for name, (a, d) in self.parts.items()))

    def add(self, layers: dict[str, tuple[Tensor, Tensor]], rows: slice) -> None:
        """Keep the inputs and deltas ``[b, t, ·]`` of one batch."""
        for name, (a, d) in layers.items():
            if self._biased[name]:
                a = torch.cat([a, a.new_ones(*a.shape[:-1], 1)], dim=-1)
            if a.shape[1] == 1:
                a, d = a[:, 0], d[:, 0]
            if name not in self.parts:
                inputs, deltas = (
                    torch.zeros(self._num, *part.shape[1:], dtype=self._dtype, device=self.home) for part in (a, d)
                )
                self.parts[name] = (inputs, deltas)
                self.eps[name] = max(torch.finfo(part.dtype).eps for part in (a, d))
            inputs, deltas = self.parts[name]
            if inputs.shape[1:] != a.shape[1:]:
                raise TaskError(
                    f"Layer {name!r} sees another number of positions in later batches.", "Pad the examples."
                )
            inputs[rows], deltas[rows] = a, d


def _differentiate(
    recorder: _Recorder, result: Tensor, rows: slice, *, keep_graph: bool
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return each layer's inputs (without the homogeneous 1) and deltas of one batch, ``[b, t, ·]``."""
    size = rows.stop - rows.start
    outputs = [output for name in recorder.called() for output in recorder.outputs[name]]
    if not outputs or not result.requires_grad:
        raise TaskError("The value does not depend on any Linear layer.", "Is the model called under no_grad?")
    grads = iter(torch.autograd.grad(result.sum(), outputs, allow_unused=True, retain_graph=keep_graph))
    layers = {}
    for name in recorder.called():
        a_parts, d_parts = [], []
        for a, output in zip(recorder.inputs[name], recorder.outputs[name], strict=True):
            grad = next(grads)
            delta = torch.zeros_like(output) if grad is None else grad
            if a.ndim < 2 or a.shape[0] != size:
                raise TaskError(
                    f"Layer {name!r} sees input of shape {tuple(a.shape)} for a batch of {size} examples.",
                    "The first axis must enumerate examples; do not fold positions into it.",
                )
            a_parts.append(a.reshape(size, -1, a.shape[-1]))
            d_parts.append(delta.reshape(size, -1, delta.shape[-1]))
        # A layer called twice has more positions.
        layers[name] = (torch.cat(a_parts, dim=1), torch.cat(d_parts, dim=1))
    return layers


def _check_against_autograd(model: nn.Module, result: Tensor, store: _FactorStore, rows: slice) -> None:
    """Compare Σ_i δ_i a_iᵀ with autograd's gradient of the sum over the first batch."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(result.sum(), parameters, allow_unused=True)
    truth = dict(zip(map(id, parameters), gradients, strict=True))
    for name, module in linear_layers(model).items():
        expected = truth[id(module.weight)]
        if name not in store.parts:
            actual = None
        else:
            a, d = (part[rows].flatten(0, -2).to(torch.float64) for part in store.parts[name])
            actual = (d.T @ a)[:, : module.in_features]
        if expected is None and actual is None:
            continue
        left = torch.zeros(module.weight.shape, dtype=torch.float64, device=store.home) if actual is None else actual
        right = torch.zeros_like(left) if expected is None else expected.detach().to(left)
        tolerance = max(_FACTOR_TOLERANCE, HALF_TOLERANCE * store.eps.get(name, 0.0))
        if all_finite(right) and float((left - right).norm()) > tolerance * (float(right.norm()) + float(left.norm())):
            raise TaskError(
                f"The factors of layer {name!r} do not reproduce autograd's gradient.",
                "Its weight is used outside the layer's own call; use dense gradients for this model.",
            )


def _refuse_non_finite(factors: GradientFactors, values: Tensor, quantity: Quantity) -> None:
    bad = ~torch.isfinite(values)
    for layer in factors.layers:
        for part in (layer.inputs, layer.deltas):
            for start in range(0, len(part), _ROWS):  # what finds out takes as much memory as what is looked at
                rows = slice(start, start + _ROWS)
                bad[rows] |= ~torch.isfinite(part[rows]).flatten(1).all(1)
    if bool(bad.any()):
        raise NumericalError(
            f"The {quantity} or its gradient is not finite for {int(bad.sum())} of {len(bad)} examples "
            f"(first at position {int(bad.nonzero()[0])}).",
            "Look for NaN in the data, or for a training run that diverged.",
        )
