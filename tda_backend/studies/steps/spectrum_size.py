"""How much memory and time the spectrum of a checkpoint takes: gradients, their projections, the decomposition."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tda_backend.numerics.spectral.leading import FORMED_ANEW, LEAST_BLOCK, basis_vectors, block_vectors
from tda_backend.studies.pipeline.sizes import Held, Sizes, doubles
from tda_backend.studies.pipeline.times import LEAST_SECONDS, backward, copied, eigenvectors, product, projecting

_ROWS = 1024
"""Rows that are rotated at a time."""
MOST_HELD_GIB = 2.0
"""A Gram matrix up to this is made once where the largest eigenvalues are wanted; a larger one is never held."""
_BLOCKS = 4
"""Blocks of vectors, or of inner products, that are held at once."""


def exact_memory(sizes: Sizes, keeps_gram: bool, kept: int | None = None) -> Held:
    """Return what the unprojected answer holds: the Gram matrix, and LAPACK's divide and conquer on that of n × n.

    Args:
        sizes: Of the study.
        keeps_gram: Whether a later step takes the Gram matrix too, so that it is not overwritten.
        kept: How many of the largest eigenvalues are kept; ``None``: all.
    """
    num = sizes.num_train
    square = doubles(num, num)
    making = sizes.gram + sizes.factors
    if kept is not None:
        held = (sizes.gram + square if keeps_gram else max(sizes.gram, square)) + doubles(sizes.num_others, num)
        return Held(max(making, held + _basis(num, kept) + sizes.coordinates(kept) + doubles(num, kept)))
    # The matrix is overwritten by its eigenvectors; the work space is as large as two of it.
    decomposing = (sizes.gram + square if keeps_gram else max(sizes.gram, square)) + 2 * square
    rotating = (sizes.gram if keeps_gram else 0.0) + 2 * square + sizes.numbers(num + sizes.num_others, num)
    return Held(max(making, decomposing, rotating) + doubles(sizes.num_others, num))


def holds_gram(sizes: Sizes, kept: int | None) -> bool:
    """Return whether an unprojected answer takes the Gram matrix: for all eigenvalues, or where it is small."""
    return kept is None or not sizes.factor_numbers or sizes.gram <= MOST_HELD_GIB


def factored_memory(sizes: Sizes, kept: int) -> Held:
    """Return what the largest eigenvalues of the unprojected answer take, found from products with factors.

    Args:
        sizes: Of the study.
        kept: How many eigenvalues.
    """
    rotated = sizes.coordinates(kept) + doubles(sizes.num_train + sizes.num_others, kept)
    basis = _basis(sizes.num_train, kept, FORMED_ANEW)
    return Held(sizes.factors + basis + rotated + _BLOCKS * doubles(_ROWS, _ROWS))


def _basis(size: int, kept: int, least_block: int = LEAST_BLOCK) -> float:
    """Return what a basis holds, with a block of vectors and their images, and what Ritz pairs are found with."""
    most = basis_vectors(size, kept, least_block)
    return doubles(size, most + _BLOCKS * block_vectors(kept, least_block)) + 4 * doubles(most, most)


@dataclass(frozen=True)
class Projecting:
    """What is projected.

    Attributes:
        max_dim: k_max, whose features are held for other k and methods.
        num_draws: Draws of the projection that are held at once.
        is_drawn_from_gram: Whether the Gram matrix is taken, and not the gradients.
        is_first: Whether no step before holds the projected gradients in memory.
    """

    max_dim: int
    num_draws: int
    is_drawn_from_gram: bool
    is_first: bool = True


def projected_memory(sizes: Sizes, dim: int, how: Projecting, kept: int | None = None) -> Held:
    """Return what the answer in a projection holds at most: while gradients are projected, or rows rotated.

    Args:
        sizes: Of the study.
        dim: k.
        how: Gradients are projected.
        kept: How many of the largest eigenvalues are kept; ``None``: all.
    """
    one = sizes.numbers(sizes.num_vectors, how.max_dim)
    if not how.is_first:
        making = Held(0.0)
    elif how.is_drawn_from_gram:
        # Gram matrix, its root in float64 and in float32; then noise beside the last.
        making = Held(max(sizes.factors + sizes.gram, 2 * sizes.gram + sizes.gram / 2 + one))
    elif sizes.factor_numbers:
        making = Held(sizes.factors)
    else:
        making = sizes.streamed
    making += one * how.num_draws
    rotated = sizes.coordinates(min(dim, kept or dim))
    sliced = sizes.numbers(sizes.num_vectors, dim) if dim < how.max_dim else 0.0
    inner = min(dim, sizes.num_train)
    squares = 4 * doubles(inner, inner) if kept is None else _basis(dim, kept)
    solving = one * how.num_draws + sliced + rotated + squares + 2 * doubles(_ROWS, dim)
    if dim >= sizes.num_train and kept is None:
        solving += doubles(sizes.num_train, dim)
    return Held(max(making.usual, solving), min(making.saved, max(0.0, making.usual - solving)))


@dataclass(frozen=True)
class Spectral:
    """What is decomposed.

    Attributes:
        dim: k; ``None``: unprojected.
        kept: How many of the largest eigenvalues are kept; ``None``: all.
        takes_gram: Whether it takes the Gram matrix, and not the gradients.
        is_first: Whether no step before holds the Gram matrix, or the projected gradients, in memory.
    """

    dim: int | None
    kept: int | None
    takes_gram: bool
    is_first: bool


def spectrum_seconds(sizes: Sizes, asked: Spectral) -> float:
    """Return what the spectrum takes."""
    dim, num = asked.dim, sizes.num_vectors
    if asked.kept is None:
        inner = min(dim or sizes.num_train, sizes.num_train)
        seconds = LEAST_SECONDS + eigenvectors(sizes, inner) + product(sizes, num, inner, inner)
        if dim is not None:
            seconds += product(sizes, sizes.num_train, inner, dim)
    else:
        seconds = LEAST_SECONDS + _leading_seconds(sizes, dim, asked.kept, asked.takes_gram)
    if not asked.is_first:
        return seconds
    if asked.takes_gram:
        made = product(sizes, num, sizes.factor_numbers, num) if sizes.factor_numbers else copied(sizes, sizes.gram)
        drawn = 0.0 if dim is None else eigenvectors(sizes, num) / 8 + product(sizes, num, num, dim, single=True)
        return seconds + made + drawn
    passed = 0.0 if sizes.factor_numbers else backward(sizes, num)
    return seconds + passed + projecting(sizes, num)


def _leading_seconds(sizes: Sizes, dim: int | None, kept: int, is_held: bool) -> float:
    """Return what it takes to find leading eigenpairs with the largest basis; ``is_held``: of a Gram matrix."""
    num = sizes.num_train
    size = num if dim is None else dim
    least = FORMED_ANEW if dim is None and not is_held else LEAST_BLOCK
    most = basis_vectors(size, kept, least)
    rounds = math.ceil(most / block_vectors(kept, least))
    # Each vector is made orthogonal to the basis so far twice, after its products with it.
    seconds = product(sizes, size, most, most) * 3 + rounds / 6 * eigenvectors(sizes, most)
    seconds += product(sizes, size, most, kept)
    if dim is not None:
        return seconds + 2 * product(sizes, num, dim, most) + product(sizes, num + sizes.num_others, dim, kept)
    if is_held:
        return seconds + product(sizes, num, num, most) + product(sizes, sizes.num_others, kept, num)
    made = rounds * product(sizes, num, sizes.factor_numbers, num) / 2
    crossed = product(sizes, sizes.num_others, sizes.factor_numbers + kept, num)
    return seconds + made + product(sizes, num, num, most) + crossed
