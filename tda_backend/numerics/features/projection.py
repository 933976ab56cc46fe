"""Random projections that nest: k_max columns are drawn once, any k ≤ k_max is a slice (METHODS §1.5).

Features are normalised so that features·featuresᵀ ≈ the Gram matrix. Three routes: a dense product of every gradient
with a random matrix that is never stored (hashed seed per block of parameter rows); for Gaussian projections a draw
from the Gram matrix that has exactly the same law and costs a tenth; and structured matrices (``sparse``,
``kronecker``) that cost a fiftieth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import scipy
import torch
from torch import Tensor

from tda_backend.blocks import EXAMPLES, in_blocks, spans
from tda_backend.errors import NumericalError, UsageError
from tda_backend.finite import all_finite
from tda_backend.numerics.features.factors import GradientFactors, LayerFactors
from tda_backend.numerics.features.structured import PARAMETER_ROWS, kronecker_features, random_signs, sparse_features
from tda_backend.seeds import hashed_rng

ProjectionKind = Literal["gaussian", "gaussian-dense", "rademacher", "sparse", "kronecker"]
KRONECKER: Final = "kronecker"
PROJECTION_KINDS: tuple[ProjectionKind, ...] = ("gaussian", "gaussian-dense", "rademacher", "sparse", KRONECKER)

_PARAMETER_ROWS = PARAMETER_ROWS

_EXAMPLES = 1024


@dataclass(frozen=True)
class Projection:
    """A random projection.

    Attributes:
        kind: ``gaussian`` (drawn from the Gram matrix, exact in law), ``gaussian-dense`` or ``rademacher`` (explicit
            products with the gradients), ``sparse`` or ``kronecker`` (see ``features.structured``).
        max_dim: k_max ≥ 1.
        seed: Draws are hashed from it.
    """

    kind: ProjectionKind
    max_dim: int
    seed: int

    def __post_init__(self) -> None:
        if self.kind not in PROJECTION_KINDS:
            raise UsageError(f"Unknown projection kind {self.kind!r}.", f"Allowed: {', '.join(PROJECTION_KINDS)}.")
        if self.max_dim < 1:
            raise UsageError(f"The projection dimension {self.max_dim} is not ≥ 1.", "Give k ≥ 1, or none.")


def random_rows(projection: Projection, group: str, block: int, num_rows: int) -> Tensor:
    """Return a block of the random matrix with unit-variance entries, ``[num_rows, k_max]`` float32.

    A pure function of (seed, kind, parameter group, block), so rows never depend on batch sizes or on the order of
    work. Different k_max share no numbers: slices of one draw nest, separate draws do not.
    """
    rng = hashed_rng("projection", projection.kind, projection.seed, projection.max_dim, group, block)
    shape = (num_rows, projection.max_dim)
    if projection.kind == "rademacher":
        return random_signs(rng, *shape)
    return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))


def project_factors(factors: GradientFactors, projection: Projection) -> Tensor:
    """Return the projected gradients P g_i of all vectors by explicit products, ``[N, k_max]``.

    A dense kind costs N·p·k_max products; memory holds one slab of gradients ``[≤ 1024, ≤ 2048]`` and one block of
    the matrix.

    Args:
        factors: Factors of N vectors.
        projection: Any kind but ``gaussian``.

    Raises:
        UsageError: Kind ``gaussian``, which is drawn from the Gram matrix; k_max above the number of parameters.
    """
    refuse_gram_kind(projection)
    refuse_larger_than_parameters(projection.max_dim, factors.num_parameters)
    if projection.kind == KRONECKER:
        return kronecker_features(factors, projection.max_dim, projection.seed)
    dtype = factors.layers[0].inputs.dtype
    result = torch.zeros(factors.num_vectors, projection.max_dim, dtype=dtype, device=factors.device)
    if projection.kind == "sparse":  # some rows at a time: nothing is held twice

        def sparse(rows: slice) -> Tensor:
            return sparse_features(factors.select(rows), projection.max_dim, projection.seed)

        for rows, found in in_blocks(factors.num_vectors, _EXAMPLES, sparse, EXAMPLES):
            result[rows] = found
        return result
    for layer in factors.layers:
        for block, first in enumerate(range(0, layer.num_parameters, _PARAMETER_ROWS)):
            last = min(first + _PARAMETER_ROWS, layer.num_parameters)
            matrix = random_rows(projection, layer.name, block, last - first).to(result)
            for rows in spans(factors.num_vectors, _EXAMPLES):
                result[rows].addmm_(_slab(layer, rows, first, last), matrix)
    return result.div_(projection.max_dim**0.5)


def _slab(layer: LayerFactors, rows: slice, first: int, last: int) -> Tensor:
    """Return entries first…last−1 of the flattened [d_out, d_in] gradients of some examples."""
    width = layer.inputs.shape[-1]
    low, high = first // width, -(-last // width)  # outputs that the range touches
    a, d = layer.inputs[rows], layer.deltas[rows][..., low:high]
    if a.ndim == 2:
        block = d[:, :, None] * a[:, None, :]
    else:
        block = d.transpose(1, 2) @ a
    return block.flatten(1)[:, first - low * width : last - low * width]


def refuse_gram_kind(projection: Projection) -> None:
    """Raise for the kind that has no explicit product."""
    if projection.kind == "gaussian":
        raise UsageError(
            "Projection kind 'gaussian' is drawn from the Gram matrix and has no explicit product.",
            "Use gaussian_from_gram, or kind 'gaussian-dense'.",
        )


def refuse_larger_than_parameters(max_dim: int, num_parameters: int) -> None:
    """Raise where a projection would have more coordinates than there are parameters to project."""
    if max_dim > num_parameters:
        raise UsageError(
            f"The projection dimension {max_dim} is larger than the number of parameters {num_parameters}.",
            f"Use at most {num_parameters}, or no projection, which is exact.",
        )


def gaussian_from_gram(
    gram: Tensor, max_dim: int, seed: int, *, overwrite: bool = False, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Draw the Gaussian projections of N vectors from their Gram matrix: ``L·G``, exact in law.

    For P with independent N(0, 1/k) entries the N projected vectors are jointly Gaussian, each coordinate with
    covariance Gram/k; so is ``L·G`` with ``LLᵀ = Gram``. Put train, validation and query vectors in **one** Gram:
    they share P. Draws at different checkpoints are then independent of each other.

    Args:
        gram: ``[N, N]`` float64 raw inner products; may be singular.
        max_dim: k_max.
        seed: Hash it from what the draw is for.
        overwrite: Allow the Gram to be destroyed (saves N² float64).
        dtype: Type of the features.

    Returns:
        ``[N, k_max]``.

    Raises:
        NumericalError: The Gram has non-finite entries or is not positive semi-definite.
    """
    if not all_finite(gram):
        raise NumericalError("The Gram matrix has entries that are not finite.", "Look for NaN in the gradients.")
    noise = hashed_rng("gaussian-from-gram", seed, max_dim).standard_normal(
        (gram.shape[0], max_dim), dtype=np.float64 if dtype == torch.float64 else np.float32
    )
    factor = _square_root(gram, overwrite).to(dtype)
    return (factor @ torch.from_numpy(noise[: factor.shape[1]]).to(factor)).div_(max_dim**0.5)


def _square_root(gram: Tensor, overwrite: bool) -> Tensor:
    """Return L ``[N, r]`` with ``LLᵀ = gram``: Cholesky, or where that breaks down pivoted Cholesky of rank r.

    The pivoted factorisation leaves a remainder below N·ε·max diag and takes a third of an eigendecomposition.
    """
    num = gram.shape[0]
    factor, info = torch.linalg.cholesky_ex(gram)
    if int(info) == 0:
        return factor
    del factor
    whole = gram.cpu()  # no device has the pivoted factorisation
    work = whole.numpy() if overwrite else whole.numpy().copy()
    diagonal = whole.diagonal().numpy().copy()
    (pivoted_cholesky,) = scipy.linalg.get_lapack_funcs(("pstrf",), dtype=np.float64)
    lower, pivots, rank, _ = pivoted_cholesky(work.T, lower=1, overwrite_a=1)
    result = np.empty((num, rank))
    result[pivots - 1] = np.tril(lower[:, :rank])
    # What is left must be rounding, or the matrix was indefinite. LAPACK's own remainder is stale within a block.
    remainder = float(np.abs(diagonal - (result * result).sum(1)).max())
    if remainder > 1e-8 * max(float(diagonal.max()), 0.0):
        raise NumericalError(
            f"The Gram matrix is not positive semi-definite (largest remainder {remainder:.3g}).",
            "Inner products must be computed in float64 from the same vectors.",
        )
    return torch.from_numpy(result).to(gram.device)


def nested(features: Tensor, dim: int) -> Tensor:
    """Return the projection to the first k of k_max dimensions: a slice rescaled by √(k_max/k).

    Args:
        features: ``[N, k_max]``.
        dim: k, 1 ≤ k ≤ k_max.

    Raises:
        UsageError: k is out of range.
    """
    largest = features.shape[1]
    if not 1 <= dim <= largest:
        raise UsageError(f"The projection dimension {dim} is outside 1…{largest}.", f"k_max is {largest}.")
    return features if dim == largest else features[:, :dim] * (largest / dim) ** 0.5
