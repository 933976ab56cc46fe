"""Spectral coordinates in Kronecker bases: one block per layer, rank-one rows, coordinates made on demand.

In layer ℓ the coordinate (o, j) of an example is ``(Q_Sᵀ ∇W Q_A)_oj`` and its eigenvalue Λ_oj, so that
``(H+λ)⁻¹V = Q_S[(Q_SᵀVQ_A)⊘(Λ+λ)]Q_Aᵀ`` (Grosse et al. 2023, §3.1) is the plain filter 1/(σ+λ) on these coordinates.
Nothing about λ is stored. Relative damping d (λ_ℓ = d·mean Λ_ℓ) stores σ/s and coordinates/√s with s = mean Λ_ℓ:
the plain filter with d is then the same as 1/(Λ+d·s).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from tda_backend.errors import ArtifactError, NumericalError, UsageError
from tda_backend.finite import all_finite
from tda_backend.models.probe import Group
from tda_backend.numerics.spectral.arrays import stored_tensor
from tda_backend.numerics.spectral.coordinates import Block, Rows
from tda_backend.numerics.spectral.filters.base import Filter, pseudo_inverse_cutoff
from tda_backend.numerics.spectral.filters.damped import DampedInverse
from tda_backend.numerics.spectral.kronecker.rows import DenseRows, FactoredRows, LayerRows, squared_sizes

Damping: TypeAlias = Literal["absolute", "relative"]
DAMPINGS: tuple[Damping, ...] = ("absolute", "relative")

PART_SIZE = 16384
"""Coordinates that are made at once; at least one output's."""

_GROUPS: tuple[Group, ...] = ("train", "query", "validation")


@dataclass(frozen=True)
class KroneckerBlock:
    """Coordinates of one layer.

    Attributes:
        name: Layer.
        eigenvalues: Λ/scale, ``[r_out, r_in]`` float64 ≥ 0; what is at or below n·ε·max counts as zero and is 0.
        train: Rows of −∇ℓ.
        query: Rows of ∇goodness.
        validation: Rows of ∇goodness for ξ.
        scale: s; 1 for absolute damping.
        num_null: Coordinates left out because every train coordinate there is 0 (constant pixels, dead units).
    """

    name: str
    eigenvalues: Tensor
    train: LayerRows
    query: LayerRows
    validation: LayerRows
    scale: float = 1.0
    num_null: int = 0

    @property
    def size(self) -> int:
        """Number of coordinates."""
        return self.eigenvalues.numel()

    @cached_property
    def train_sizes(self) -> Tensor:
        """Norm of each coordinate over the training examples, ``[r_out, r_in]``; kept, for no λ or query changes it."""
        return squared_sizes(self.train).sqrt().to(self.train.dtype)

    def to(self, device: torch.device | str) -> KroneckerBlock:
        """Return the same coordinates on a device."""
        moved = {name: getattr(self, name).to(device) for name in ("eigenvalues", *_GROUPS)}
        return replace(self, **moved)


@dataclass(frozen=True)
class KroneckerPart:
    """Some outputs of a block: coordinates ``[o·r_in]``, output index major."""

    layer: KroneckerBlock
    outputs: slice

    @property
    def block(self) -> str:
        return self.layer.name

    @property
    def eigenvalues(self) -> Tensor:
        return self.layer.eigenvalues[self.outputs].flatten()

    def rows(self, group: Group, index: Rows = None) -> Tensor:
        """Return the coordinates of some (or all) examples of a group, ``[b, r]``."""
        rows: LayerRows = getattr(self.layer, group)
        return rows.values(self.outputs, index)

    def products(self, vectors: Tensor) -> Tensor:
        """Return ``vectors · trainᵀ`` for vectors ``[q, r]``, ``[q, n]``."""
        return self.layer.train.products(vectors, self.outputs)

    def sums(self, masks: Tensor) -> Tensor:
        """Return ``masks · train`` for masks ``[S, n]`` float64, ``[S, r]`` float64."""
        return self.layer.train.sums(masks, self.outputs)


@dataclass(frozen=True)
class KroneckerSpectrum:
    """Coordinates of every tracked layer; plugs into contraction like a dense spectrum.

    Attributes:
        layers: Blocks, in model order.
        filter: φ; the damped inverse unless the method says otherwise.
        train_weights: Always ``None``: the sign and scale are inside ``train``.
        query_outside: Always ``None``: the damped inverse does not ask.
    """

    layers: tuple[KroneckerBlock, ...]
    filter: Filter = field(default_factory=DampedInverse)
    train_weights: Tensor | None = None
    query_outside: Tensor | None = None

    @property
    def num_train(self) -> int:
        return self.layers[0].train.shape[0]

    @property
    def num_queries(self) -> int:
        return self.layers[0].query.shape[0]

    @property
    def num_validation(self) -> int:
        return self.layers[0].validation.shape[0]

    @property
    def dtype(self) -> torch.dtype:
        return self.layers[0].train.dtype

    @property
    def device(self) -> torch.device:
        return self.layers[0].train.device

    def to(self, device: torch.device | str) -> KroneckerSpectrum:
        """Return the same coordinates on a device."""
        return replace(self, layers=tuple(layer.to(device) for layer in self.layers))

    @property
    def eigenvalues(self) -> Tensor:
        """All eigenvalues in the order of the parts, float64; not sorted."""
        return torch.cat([layer.eigenvalues.flatten() for layer in self.layers])

    @property
    def blocks(self) -> tuple[Block, ...]:
        return tuple(Block(layer.name, layer.size, layer.scale) for layer in self.layers)

    @property
    def num_cut(self) -> int:
        """Coordinates that count as zero: left out as null, or with Λ ≤ n·ε·max Λ of their block."""
        return sum(layer.num_null + int((layer.eigenvalues == 0).sum()) for layer in self.layers)

    def parts(self) -> Sequence[KroneckerPart]:
        """Return runs of at most ~16k coordinates, block after block."""
        parts = []
        for layer in self.layers:
            num_outputs, num_inputs = layer.eigenvalues.shape
            step = max(1, PART_SIZE // max(1, num_inputs))
            starts = range(0, num_outputs, step)
            parts += [KroneckerPart(layer, slice(s, min(s + step, num_outputs))) for s in starts]
        return parts

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return everything but the filter as NumPy arrays for storing; λ is not part of them."""
        arrays: dict[str, np.ndarray] = {
            "layers": np.array([layer.name for layer in self.layers], dtype=np.str_),
            "scales": np.array([layer.scale for layer in self.layers]),
            "num_null": np.array([layer.num_null for layer in self.layers], dtype=np.int64),
        }
        for index, layer in enumerate(self.layers):
            arrays[f"eigenvalues.{index}"] = layer.eigenvalues.cpu().numpy()
            for group in _GROUPS:
                rows: LayerRows = getattr(layer, group)
                if isinstance(rows, DenseRows):
                    arrays[f"{group}.dense.{index}"] = rows.matrices.cpu().numpy()
                else:
                    arrays[f"{group}.inputs.{index}"] = rows.inputs.cpu().numpy()
                    arrays[f"{group}.deltas.{index}"] = rows.deltas.cpu().numpy()
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], **attributes: Any) -> KroneckerSpectrum:
        """Return the spectrum stored by :meth:`to_arrays`; memory maps stay memory maps where they are writable.

        Raises:
            ArtifactError: An array is missing, or shapes do not fit together.
        """
        try:
            layers = []
            for index, name in enumerate(arrays["layers"]):
                rows = {group: _stored_rows(arrays, group, index) for group in _GROUPS}
                eigenvalues = stored_tensor(arrays[f"eigenvalues.{index}"])
                for group, part in rows.items():
                    if part.shape[1:] != tuple(eigenvalues.shape):
                        raise ArtifactError(
                            f"Stored {group} rows of layer {str(name)!r} have shape {part.shape}, its eigenvalues "
                            f"{tuple(eigenvalues.shape)}.",
                            "Remove the artifact; rerun.",
                        )
                scale, null = float(arrays["scales"][index]), int(arrays["num_null"][index])
                layers.append(KroneckerBlock(str(name), eigenvalues, **rows, scale=scale, num_null=null))
        except KeyError as error:
            raise ArtifactError(f"A stored spectrum lacks the array {error}.", "Remove the artifact; rerun.") from error
        return cls(tuple(layers), **attributes)


def kronecker_block(
    raw: KroneckerBlock,
    damping: Damping = "absolute",
    *,
    null_outputs: Tensor | None = None,
    null_inputs: Tensor | None = None,
) -> KroneckerBlock:
    """Return one layer's block as it is stored: null directions dropped, zeros found, coordinates scaled.

    Args:
        raw: Λ, ``[d_out, d_in]`` float64 ≥ 0, and all rows in the basis.
        damping: ``relative`` puts the block on the scale of its mean Λ.
        null_outputs: Bool ``[d_out]``, directions that may be dropped if the train rows vanish there.
        null_inputs: Bool ``[d_in]``, likewise.

    Raises:
        NumericalError: Λ is negative, not finite, or all zero (named layer).
        UsageError: Unknown damping.
    """
    check_damping(damping)
    name, eigenvalues = raw.name, raw.eigenvalues
    groups = (raw.train, raw.query, raw.validation)
    if not all_finite(eigenvalues) or bool((eigenvalues < 0).any()):
        raise NumericalError(
            f"The eigenvalues of layer {name!r} are negative or not finite.", "Look for NaN in the gradients."
        )
    mean = float(eigenvalues.mean())
    if mean == 0:
        raise NumericalError(
            f"The curvature of layer {name!r} is 0: mean Λ = {mean:g}.",
            "The layer has no influence on this loss (dead units?): freeze it with requires_grad_(False).",
        )
    scale = mean if damping == "relative" else 1.0
    kept = _kept(raw.train, null_outputs, null_inputs)
    if kept is not None:
        eigenvalues = eigenvalues[kept[0]][:, kept[1]]
        groups = tuple(rows.select(*kept) for rows in groups)
    cutoff = pseudo_inverse_cutoff(eigenvalues, raw.train.shape[0])
    eigenvalues = torch.where(eigenvalues > cutoff, eigenvalues, torch.zeros_like(eigenvalues)) / scale
    if scale != 1.0:
        groups = tuple(rows.scaled(scale**-0.5) for rows in groups)
    return KroneckerBlock(name, eigenvalues, *groups, scale=scale, num_null=raw.size - eigenvalues.numel())


def check_damping(damping: str) -> None:
    """Raise a UsageError unless ``damping`` is one of :data:`DAMPINGS`."""
    if damping not in DAMPINGS:
        raise UsageError(f"Unknown damping {damping!r}.", f"Allowed: {', '.join(DAMPINGS)}.")


def _kept(train: LayerRows, null_outputs: Tensor | None, null_inputs: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """Return the outputs and inputs to keep, or ``None`` for all.

    A direction is dropped if the curvature is null there *and* the train coordinates are rounding noise: a query's
    coordinate then multiplies zeros only.
    """
    if null_outputs is None and null_inputs is None:
        return None
    noise = (64 * torch.finfo(train.dtype).eps) ** 2
    kept = []
    for null, energy in zip((null_outputs, null_inputs), train.energies(), strict=True):
        vanishing = energy <= noise * energy.sum()
        kept.append(torch.ones_like(vanishing) if null is None else ~(null & vanishing))
    return None if bool(kept[0].all() and kept[1].all()) else (kept[0].nonzero()[:, 0], kept[1].nonzero()[:, 0])


def _stored_rows(arrays: Mapping[str, np.ndarray], group: str, index: int) -> LayerRows:
    if f"{group}.dense.{index}" in arrays:
        return DenseRows(stored_tensor(arrays[f"{group}.dense.{index}"]))
    return FactoredRows(
        stored_tensor(arrays[f"{group}.inputs.{index}"]), stored_tensor(arrays[f"{group}.deltas.{index}"])
    )
