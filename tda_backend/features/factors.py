"""Per-example gradients of Linear layers as rank-one factors: ``∇W ℓ_i = Σ_t δ_it a_itᵀ``, never an n × p matrix.

One backward pass of the *sum* over a batch gives every example's own δ, because examples do not interact in eval
mode. The bias is a homogeneous 1 appended to a.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tda_backend.errors import NumericalError, TaskError
from tda_backend.features.streaming import Quantity, batches, evaluation_mode, values_of
from tda_backend.types import Batch, Task

_FACTOR_TOLERANCE = 1e-3
"""Relative difference allowed between the factors' summed gradient and autograd's, in float32 (measured: 1e-6)."""


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
    def num_parameters(self) -> int:
        return sum(layer.num_parameters for layer in self.layers)

    def select(self, rows: slice | Sequence[int] | Tensor) -> GradientFactors:
        """Return the factors of some of the vectors."""
        index = rows if isinstance(rows, slice) else torch.as_tensor(rows)
        return GradientFactors(tuple(LayerFactors(f.name, f.inputs[index], f.deltas[index]) for f in self.layers))

    def squared_norms(self) -> Tensor:
        """Return ‖g_i‖² as ``[N]`` float64."""
        total = torch.zeros(self.num_vectors, dtype=torch.float64)
        for layer in self.layers:
            a, d = layer.inputs.to(torch.float64), layer.deltas.to(torch.float64)
            if a.ndim == 2:
                total += (a * a).sum(1) * (d * d).sum(1)
            else:
                total += ((a @ a.transpose(1, 2)) * (d @ d.transpose(1, 2))).sum((1, 2))
        return total


def concatenate(parts: Sequence[GradientFactors]) -> GradientFactors:
    """Return the factors of several groups of vectors one after the other."""
    return GradientFactors(
        tuple(
            LayerFactors(same[0].name, torch.cat([f.inputs for f in same]), torch.cat([f.deltas for f in same]))
            for same in zip(*(part.layers for part in parts), strict=True)
        )
    )


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


class _Recorder:
    """Forward hooks that copy every Linear layer's input and keep its output for the backward pass."""

    def __init__(self, model: nn.Module) -> None:
        self.inputs: dict[str, list[Tensor]] = {}
        self.outputs: dict[str, list[Tensor]] = {}
        self._hooks = [module.register_forward_hook(self._hook(name)) for name, module in linear_layers(model).items()]

    def _hook(self, name: str):
        def record(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
            self.inputs.setdefault(name, []).append(arguments[0].detach().clone())
            self.outputs.setdefault(name, []).append(output)
            # The rest of the model gets a copy: an in-place activation would otherwise turn the kept output into
            # the activation's result, and δ into the wrong derivative.
            return output.clone()

        return record

    def clear(self) -> None:
        self.inputs.clear()
        self.outputs.clear()

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()


def linear_factors(
    task: Task,
    model: nn.Module,
    data: Batch,
    indices: Sequence[int] | Tensor,
    quantity: Quantity,
    batch_size: int = 512,
    device: torch.device | str = "cpu",
    *,
    verify: bool = True,
) -> tuple[GradientFactors, Tensor]:
    """Return the factors of the per-example gradients of ``quantity``, and its values.

    Taken in eval mode, batch by batch; the factors (on the CPU, in the model's dtype) are all that is kept. On the
    first batch the summed gradient is compared with autograd's, so a model that uses a Linear layer's weight in
    another way is refused instead of answered wrongly.

    Args:
        task: Whose measurement or loss is differentiated.
        model: All trainable parameters must lie in plain Linear layers.
        data: One split.
        indices: Rows of the split, in the order of the result.
        quantity: ``goodness`` or ``train_loss``.
        batch_size: Examples per pass; the result does not depend on it.
        device: Where the passes run; the model is moved there.
        verify: Compare with autograd; ``False`` only for further calls with a model that has passed.

    Returns:
        Factors of N vectors and the values ``[N]``.

    Raises:
        TaskError: Parameters lie outside Linear layers, or the layers' axes cannot be told apart per example.
        NumericalError: A value or a factor is not finite.
    """
    outside = untracked_parameters(model)
    if outside or not linear_layers(model):
        raise TaskError(
            f"Parameters of task {task.name!r} lie outside Linear layers: {', '.join(outside[:8]) or 'all'}"
            f"{f' and {len(outside) - 8} more' if len(outside) > 8 else ''}.",
            "Rank-one factors exist for plain nn.Linear layers only; use dense gradients for this model.",
        )
    model.to(device)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    num = len(torch.as_tensor(indices))
    values = torch.empty(num, dtype=parameters[0].dtype)
    store: dict[str, tuple[Tensor, Tensor]] = {}
    recorder = _Recorder(model)
    try:
        with evaluation_mode(model), torch.enable_grad():
            for rows, batch in batches(data, indices, batch_size, device):
                recorder.clear()
                result = values_of(task, model, batch, quantity)
                _differentiate(
                    recorder, model, result, rows, store, num, check=parameters if verify and not store else None
                )
                values[rows] = result.detach().cpu().to(values.dtype)
    finally:
        recorder.remove()
    factors = GradientFactors(tuple(LayerFactors(name, a, d) for name, (a, d) in store.items()))
    _refuse_non_finite(factors, values, quantity)
    return factors, values


def _differentiate(
    recorder: _Recorder,
    model: nn.Module,
    result: Tensor,
    rows: slice,
    store: dict[str, tuple[Tensor, Tensor]],
    num: int,
    check: list[nn.Parameter] | None,
) -> None:
    size = rows.stop - rows.start
    names = [name for name in linear_layers(model) if name in recorder.outputs]
    outputs = [output for name in names for output in recorder.outputs[name]]
    if not outputs or not result.requires_grad:
        raise TaskError("The value does not depend on any Linear layer.", "Is the model called under no_grad?")
    keep = check is not None
    grads = iter(torch.autograd.grad(result.sum(), outputs, allow_unused=True, retain_graph=keep))
    layers = linear_layers(model)
    for name in names:
        a_parts, d_parts = [], []
        for a, output in zip(recorder.inputs[name], recorder.outputs[name], strict=True):
            grad = next(grads)
            delta = torch.zeros_like(output) if grad is None else grad
            if a.ndim < 2 or a.shape[0] != size:
                raise TaskError(
                    f"Layer {name!r} sees input of shape {tuple(a.shape)} for a batch of {size} examples.",
                    "The first axis must enumerate examples; do not fold positions into it.",
                )
            bias = layers[name].bias
            if bias is not None and bias.requires_grad:
                a = torch.cat([a, a.new_ones(*a.shape[:-1], 1)], dim=-1)
            a_parts.append(a.reshape(size, -1, a.shape[-1]))
            d_parts.append(delta.reshape(size, -1, delta.shape[-1]))
        a, d = torch.cat(a_parts, dim=1), torch.cat(d_parts, dim=1)  # a layer called twice has more positions
        if a.shape[1] == 1:
            a, d = a[:, 0], d[:, 0]
        if name not in store:
            store[name] = (
                torch.zeros(num, *a.shape[1:], dtype=a.dtype),
                torch.zeros(num, *d.shape[1:], dtype=d.dtype),
            )
        if store[name][0].shape[1:] != a.shape[1:]:
            raise TaskError(f"Layer {name!r} sees another number of positions in later batches.", "Pad the examples.")
        store[name][0][rows] = a.cpu()
        store[name][1][rows] = d.cpu()
    if check is not None:
        _check_against_autograd(model, result, check, {name: store[name] for name in names}, rows)


def _check_against_autograd(
    model: nn.Module,
    result: Tensor,
    parameters: list[nn.Parameter],
    store: dict[str, tuple[Tensor, Tensor]],
    rows: slice,
) -> None:
    """Compare Σ_i δ_i a_iᵀ with autograd's gradient of the sum over the first batch."""
    gradients = torch.autograd.grad(result.sum(), parameters, allow_unused=True)
    truth = dict(zip(map(id, parameters), gradients, strict=True))
    for name, module in linear_layers(model).items():
        expected = truth[id(module.weight)]
        if name not in store:
            actual = None
        else:
            a, d = (part[rows].flatten(0, -2).to(torch.float64) for part in store[name])
            actual = (d.T @ a)[:, : module.in_features]
        if expected is None and actual is None:
            continue
        left = torch.zeros(module.weight.shape, dtype=torch.float64) if actual is None else actual
        right = torch.zeros_like(left) if expected is None else expected.detach().cpu().to(torch.float64)
        if bool(torch.isfinite(right).all()) and float((left - right).norm()) > _FACTOR_TOLERANCE * (
            float(right.norm()) + float(left.norm())
        ):
            raise TaskError(
                f"The factors of layer {name!r} do not reproduce autograd's gradient.",
                "Its weight is used outside the layer's own call; use dense gradients for this model.",
            )


def _refuse_non_finite(factors: GradientFactors, values: Tensor, quantity: Quantity) -> None:
    bad = ~torch.isfinite(values)
    for layer in factors.layers:
        for part in (layer.inputs, layer.deltas):
            bad |= ~torch.isfinite(part).flatten(1).all(1)
    if bool(bad.any()):
        raise NumericalError(
            f"The {quantity} or its gradient is not finite for {int(bad.sum())} of {len(bad)} examples "
            f"(first at position {int(bad.nonzero()[0])}).",
            "Look for NaN in the data, or for a training run that diverged.",
        )
