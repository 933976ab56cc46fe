"""Kronecker-factored curvature: moments A and S per layer, their eigenbasis, corrected eigenvalues, rotated gradients.

For a layer with per-example gradient ``∇W_i = Σ_t δ_it a_itᵀ`` (t over positions, a with a homogeneous 1):

* ``A = mean_i Σ_t a_it a_itᵀ``, ``S = mean_i (1/T) Σ_t δ_it δ_itᵀ``, so that ``S ⊗ A`` estimates the curvature
  ``mean_i vec(∇W_i) vec(∇W_i)ᵀ`` on its own scale (K-FAC, Martens & Grosse 2015; for several positions KFC's
  independence of positions, Grosse & Martens 2016). kronfluence divides A by T too: same eigenvectors and same
  EK-FAC, but a K-FAC curvature T times smaller.
* ``A = Q_A D_A Q_Aᵀ``, ``S = Q_S D_S Q_Sᵀ``; a gradient in the basis is ``Q_Sᵀ ∇W Q_A``.
* ``Λ = mean_i (Q_Sᵀ ∇W_i Q_A)^{∘2}`` (EK-FAC, George et al. 2018); K-FAC has ``Λ = D_S ⊗ D_A``; the diagonal
  approximation is EK-FAC in the basis Q = I.

The Fisher information is *true* when targets are drawn from the model itself, *empirical* with the targets of the data
(Grosse et al. 2023, §2.4). Everything here is independent of batch size and example order: targets are drawn from a
seed hashed from each example's index.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from tda_backend.errors import NumericalError, TaskError, UsageError
from tda_backend.features.layers import LayerBatch, TrackedLayer, UntrackedPolicy, layer_batches, tracked_layers
from tda_backend.features.streaming import Quantity, batches, evaluation_mode
from tda_backend.seeds import hashed_seed
from tda_backend.spectral.kronecker_rows import LayerRows, join_rows, smaller_rows
from tda_backend.types import Batch, Task

Fisher: TypeAlias = Literal["true", "empirical"]
FISHERS: tuple[Fisher, ...] = ("true", "empirical")
Kind: TypeAlias = Literal["ekfac", "kfac", "diagonal"]
KINDS: tuple[Kind, ...] = ("ekfac", "kfac", "diagonal")

_NUMBERS = 2**24
"""Numbers in one block of temporary gradients."""


@dataclass(frozen=True)
class LayerMoments:
    """Second moments of one layer's factors.

    Attributes:
        name: Layer.
        inputs: A, ``[d_in, d_in]`` float64.
        deltas: S, ``[d_out, d_out]`` float64.
    """

    name: str
    inputs: Tensor
    deltas: Tensor


@dataclass(frozen=True)
class KroneckerMoments:
    """Second moments of every tracked layer at one checkpoint, or averaged over several."""

    layers: tuple[LayerMoments, ...]
    num_examples: int


@dataclass(frozen=True)
class LayerBasis:
    """Orthonormal bases of one layer's inputs and outputs.

    Attributes:
        name: Layer.
        inputs: Q_A, ``[d_in, d_in]`` float64, eigenvectors as columns.
        deltas: Q_S, ``[d_out, d_out]`` float64.
        input_eigenvalues: D_A, ``[d_in]`` float64, descending, ≥ 0 (the diagonal of A where Q = I).
        delta_eigenvalues: D_S, ``[d_out]`` float64.
    """

    name: str
    inputs: Tensor
    deltas: Tensor
    input_eigenvalues: Tensor
    delta_eigenvalues: Tensor

    @property
    def null_inputs(self) -> Tensor:
        """Directions in which no input of the moments' examples lies, bool ``[d_in]``: D_A ≤ d_in·ε·max D_A."""
        return self.input_eigenvalues <= _cutoff(self.input_eigenvalues)

    @property
    def null_deltas(self) -> Tensor:
        """Directions in which no output gradient lies, bool ``[d_out]``."""
        return self.delta_eigenvalues <= _cutoff(self.delta_eigenvalues)


@dataclass(frozen=True)
class KroneckerBasis:
    """One basis per tracked layer; ``kind`` says how Λ is found in it."""

    layers: tuple[LayerBasis, ...]
    kind: Kind = "ekfac"


def kronecker_moments(
    task: Task,
    model: nn.Module,
    data: Batch,
    indices: Sequence[int] | Tensor,
    *,
    fisher: Fisher = "true",
    seed: int = 0,
    num_samples: int = 1,
    targets: Tensor | None = None,
    batch_size: int = 512,
    device: torch.device | str = "cpu",
    untracked: UntrackedPolicy = "refuse",
) -> KroneckerMoments:
    """Return A and S of every tracked layer, accumulated in float64.

    Args:
        task: Whose training loss is differentiated; the true Fisher also needs its outputs and sample_targets.
        model: At the checkpoint.
        data: One split.
        indices: Rows of the split.
        fisher: ``true`` or ``empirical``.
        seed: Of the drawn targets.
        num_samples: Draws per example.
        targets: Targets to use instead of drawn ones, ``[num_samples, N]`` or ``[N]``, e.g. to compare with a peer.
        batch_size: Examples per pass.
        device: Where the passes run.
        untracked: ``refuse`` or ``leave-out`` parameters outside tracked layers.

    Raises:
        TaskError: Untracked parameters are refused, or the task cannot draw targets.
        NumericalError: A gradient is not finite (named layer), or a moment is all zero.
    """
    layers = tracked_layers(model, untracked)
    inputs = [torch.zeros(layer.shape[1], layer.shape[1], dtype=torch.float64) for layer in layers]
    deltas = [torch.zeros(layer.shape[0], layer.shape[0], dtype=torch.float64) for layer in layers]
    stream = _fisher_batches(
        task, model, data, indices, fisher, seed, num_samples, targets, batch_size, device, untracked
    )
    count = 0
    for batch in stream:
        count += len(batch.values)
        for index, layer in enumerate(layers):
            if layer.name in batch.layers:
                a, d = batch.layers[layer.name].inputs, batch.layers[layer.name].deltas
                positions = a.shape[1] if a.ndim == 3 else 1
                inputs[index] += _second_moment(a)
                deltas[index] += _second_moment(d) / positions
    _refuse_empty(count)
    result = []
    for layer, a, d in zip(layers, inputs, deltas, strict=True):
        for what, moment in (("inputs", a), ("output gradients", d)):
            if not bool(moment.any()):
                raise NumericalError(
                    f"All {what} of layer {layer.name!r} are 0 on {count} examples, so its curvature is 0.",
                    "The layer has no influence on this loss (dead units?): freeze it with requires_grad_(False).",
                )
        result.append(LayerMoments(layer.name, a / count, d / count))
    return KroneckerMoments(tuple(result), count // num_samples)


def average(moments: Sequence[KroneckerMoments]) -> KroneckerMoments:
    """Return the mean of the moments of several checkpoints (SOURCE §4: average A and S, then one eigenbasis)."""
    if not moments:
        raise UsageError("There are no moments to average.", "Give at least one checkpoint.")
    layers = []
    for same in zip(*(moment.layers for moment in moments), strict=True):
        inputs = torch.stack([layer.inputs for layer in same]).mean(0)
        layers.append(LayerMoments(same[0].name, inputs, torch.stack([layer.deltas for layer in same]).mean(0)))
    return KroneckerMoments(tuple(layers), moments[0].num_examples)


def eigenbasis(moments: KroneckerMoments, kind: Kind = "ekfac") -> KroneckerBasis:
    """Return the eigenvectors of A and S, or the identity for kind ``diagonal``; float64.

    Raises:
        NumericalError: A moment is not finite.
        UsageError: Unknown kind.
    """
    check_kind(kind)
    layers = []
    for layer in moments.layers:
        pairs = []
        for moment in (layer.inputs, layer.deltas):
            if not bool(torch.isfinite(moment).all()):
                raise NumericalError(f"A moment of layer {layer.name!r} is not finite.", "Look for NaN in the data.")
            if kind == "diagonal":
                pairs.append((moment.diagonal().clone(), torch.eye(len(moment), dtype=torch.float64)))
            else:
                values, vectors = torch.linalg.eigh(moment)
                pairs.append((values.flip(0).clamp(min=0), vectors.flip(1).contiguous()))
        (input_values, inputs), (delta_values, deltas) = pairs
        layers.append(LayerBasis(layer.name, inputs, deltas, input_values, delta_values))
    return KroneckerBasis(tuple(layers), kind)


def check_kind(kind: str) -> None:
    """Raise a UsageError unless ``kind`` is one of :data:`KINDS`."""
    if kind not in KINDS:
        raise UsageError(f"Unknown Kronecker curvature {kind!r}.", f"Allowed: {', '.join(KINDS)}.")


def eigenvalue_correction(
    task: Task,
    model: nn.Module,
    data: Batch,
    indices: Sequence[int] | Tensor,
    basis: KroneckerBasis,
    *,
    fisher: Fisher = "true",
    seed: int = 0,
    num_samples: int = 1,
    targets: Tensor | None = None,
    batch_size: int = 512,
    device: torch.device | str = "cpu",
    untracked: UntrackedPolicy = "refuse",
) -> tuple[Tensor, ...]:
    """Return Λ of every layer in a basis, ``[d_out, d_in]`` float64: ``mean_i (Q_Sᵀ ∇W_i Q_A)^{∘2}``.

    A basis of kind ``kfac`` needs no gradients: ``Λ = D_S ⊗ D_A`` of that basis. Arguments are those of
    :func:`kronecker_moments`; the same seed draws the same targets.
    """
    if basis.kind == "kfac":
        return tuple(torch.outer(layer.delta_eigenvalues, layer.input_eigenvalues) for layer in basis.layers)
    rotation = _Rotation(basis, model, device, tracked_layers(model, untracked))
    squares = [torch.zeros(b.deltas.shape[1], b.inputs.shape[1], dtype=torch.float64) for b in basis.layers]
    stream = _fisher_batches(
        task, model, data, indices, fisher, seed, num_samples, targets, batch_size, device, untracked
    )
    count = 0
    for batch in stream:
        count += len(batch.values)
        for index, (a, d) in enumerate(rotation.apply(batch)):
            squares[index] += _squared_gradients(a, d)
    _refuse_empty(count)
    return tuple(square / count for square in squares)


def rotated_gradients(
    task: Task,
    model: nn.Module,
    data: Batch,
    indices: Sequence[int] | Tensor,
    quantity: Quantity,
    basis: KroneckerBasis,
    *,
    batch_size: int = 512,
    device: torch.device | str = "cpu",
    untracked: UntrackedPolicy = "refuse",
) -> tuple[tuple[LayerRows, ...], Tensor]:
    """Return the per-example gradients ``Q_Sᵀ ∇W_i Q_A`` of every layer, and the values ``[N]``; on the CPU.

    Kept as factors, or as matrices where several positions make factors larger. In the model's dtype.
    """
    rotation = _Rotation(basis, model, device, tracked_layers(model, untracked))
    parts: list[list[LayerRows]] = [[] for _ in basis.layers]
    values = []
    stream = layer_batches(
        task, model, data, indices, quantity, batch_size=batch_size, device=device, untracked=untracked
    )
    for batch in stream:
        values.append(batch.values.cpu())
        for index, (a, d) in enumerate(rotation.apply(batch)):
            parts[index].append(smaller_rows(a.cpu(), d.cpu()))
    _refuse_empty(len(values))
    return tuple(join_rows(part) for part in parts), torch.cat(values)


def fisher_targets(
    task: Task,
    model: nn.Module,
    data: Batch,
    indices: Sequence[int] | Tensor,
    *,
    seed: int = 0,
    num_samples: int = 1,
    batch_size: int = 512,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Return the targets that the true Fisher draws from the model, ``[num_samples, N, ...]`` on the CPU."""
    rows = torch.as_tensor(indices, dtype=torch.long)
    _refuse_empty(len(rows))
    if num_samples < 1:
        raise UsageError(f"num_samples = {num_samples} draws per example.", "Give 1 or more.")
    model.to(device)
    draws: list[list[Tensor]] = [[] for _ in range(num_samples)]
    for part, batch in batches(data, rows, batch_size, device):
        with evaluation_mode(model), torch.no_grad():
            outputs = task.outputs(model, batch)
        for sample in range(num_samples):
            draws[sample].append(_draw(task, outputs, rows[part], seed, sample))
    return torch.stack([torch.cat(draw) for draw in draws])


def _fisher_batches(
    task: Task,
    model: nn.Module,
    data: Batch,
    indices: Sequence[int] | Tensor,
    fisher: Fisher,
    seed: int,
    num_samples: int,
    targets: Tensor | None,
    batch_size: int,
    device: torch.device | str,
    untracked: UntrackedPolicy,
) -> Iterator[LayerBatch]:
    """Yield factors of the loss gradients whose second moment is the Fisher information, sample after sample."""
    if fisher not in FISHERS:
        raise UsageError(f"Unknown Fisher information {fisher!r}.", f"Allowed: {', '.join(FISHERS)}.")
    if num_samples < 1 or (fisher == "empirical" and (num_samples > 1 or targets is not None)):
        raise UsageError(
            f"num_samples = {num_samples} {'with targets ' if targets is not None else ''}cannot be had with the "
            f"{fisher} Fisher information.",
            "Draws are ≥ 1; the empirical Fisher has the data's own targets, once.",
        )
    rows = torch.as_tensor(indices, dtype=torch.long)
    if fisher == "true":
        if targets is None:
            settings = {"seed": seed, "num_samples": num_samples, "batch_size": batch_size, "device": device}
            targets = fisher_targets(task, model, data, rows, **settings)
        elif num_samples == 1 and targets.shape[:2] != (1, len(rows)):
            targets = targets[None]
        if targets.shape[:2] != (num_samples, len(rows)):
            raise UsageError(
                f"Targets of shape {tuple(targets.shape)} for {num_samples} samples of {len(rows)} examples.",
                "Give [num_samples, N], in the order of the indices.",
            )
    for sample in range(num_samples):

        def value(model: nn.Module, batch: dict[str, Tensor], part: slice, sample: int = sample) -> Tensor:
            assert targets is not None
            outputs = task.outputs(model, batch)
            drawn = targets[sample, part].to(outputs.device)
            losses = task.output_loss(outputs, {**batch, task.label_key: drawn})
            if losses.shape != (len(outputs),):
                raise TaskError(
                    f"Task {task.name!r} returned an output_loss of shape {tuple(losses.shape)} for {len(outputs)} "
                    "examples.",
                    "output_loss returns one number per example, [b], not reduced.",
                )
            return losses

        quantity = "train_loss" if fisher == "empirical" else value
        yield from layer_batches(
            task, model, data, rows, quantity, batch_size=batch_size, device=device, untracked=untracked
        )


def _draw(task: Task, outputs: Tensor, indices: Tensor, seed: int, sample: int) -> Tensor:
    outputs, generator = outputs.cpu(), torch.Generator()
    drawn = []
    for row, index in enumerate(indices.tolist()):
        generator.manual_seed(hashed_seed("fisher-target", seed, sample, index))
        drawn.append(task.sample_targets(outputs[row : row + 1], generator))
    return torch.cat(drawn)


class _Rotation:
    """A basis in the model's dtype on its device."""

    def __init__(
        self, basis: KroneckerBasis, model: nn.Module, device: torch.device | str, layers: Sequence[TrackedLayer]
    ) -> None:
        shapes = [(b.name, (b.deltas.shape[0], b.inputs.shape[0])) for b in basis.layers]
        if shapes != [(layer.name, layer.shape) for layer in layers]:
            raise UsageError(
                f"The basis belongs to another model: its layers are {shapes}, "
                f"the model's {[(layer.name, layer.shape) for layer in layers]}.",
                "Use a basis of the same architecture and the same policy for untracked parameters.",
            )
        dtypes = {layer.name: model.get_parameter(layer.weight).dtype for layer in layers}
        self._diagonal = basis.kind == "diagonal"
        self._layers = [
            (b.name, b.inputs.to(device, dtypes[b.name]), b.deltas.to(device, dtypes[b.name])) for b in basis.layers
        ]

    def apply(self, batch: LayerBatch) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (a Q_A, δ Q_S) of every layer; zeros for a layer that takes no part in the value."""
        for name, inputs, deltas in self._layers:
            if name not in batch.layers:
                size = len(batch.values)
                yield inputs.new_zeros(size, inputs.shape[1]), deltas.new_zeros(size, deltas.shape[1])
                continue
            a, d = batch.layers[name].inputs, batch.layers[name].deltas
            yield (a, d) if self._diagonal else (a @ inputs, d @ deltas)


def _second_moment(factor: Tensor) -> Tensor:
    flat = factor.reshape(-1, factor.shape[-1]).to(torch.float64)
    return (flat.T @ flat).cpu()


def _squared_gradients(a: Tensor, d: Tensor) -> Tensor:
    """Return Σ_i (Σ_t d_it a_itᵀ)^{∘2}, float64."""
    if a.ndim == 2:
        a, d = a.to(torch.float64), d.to(torch.float64)
        return ((d * d).T @ (a * a)).cpu()
    total = torch.zeros(d.shape[2], a.shape[2], dtype=torch.float64)
    step = max(1, _NUMBERS // total.numel())
    for start in range(0, a.shape[0], step):
        rows = slice(start, start + step)
        gradients = d[rows].transpose(1, 2) @ a[rows]
        total += gradients.square_().sum(0, dtype=torch.float64).cpu()
    return total


def _cutoff(eigenvalues: Tensor) -> float:
    return len(eigenvalues) * torch.finfo(torch.float64).eps * float(eigenvalues.max())


def _refuse_empty(count: int) -> None:
    if count == 0:
        raise UsageError("There are no examples to take gradients of.", "Give at least one index.")
