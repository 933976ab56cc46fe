"""How much memory and time the spectrum of a checkpoint takes: gradients, their projections, the decomposition."""

from __future__ import annotations

from tda_backend.studies.pipeline.sizes import Held, Sizes, doubles
from tda_backend.studies.pipeline.times import LEAST_SECONDS, backward, copied, eigenvectors, product, projecting

_ROWS = 1024
"""Rows that are rotated at a time."""


def exact_memory(sizes: Sizes, keeps_gram: bool) -> Held:
    """Return what the unprojected answer holds: the Gram matrix, and LAPACK's divide and conquer on that of n × n.

    Args:
        sizes: Of the study.
        keeps_gram: Whether a later step takes the Gram matrix too, so that it is not overwritten.
    """
    num = sizes.num_train
    square = doubles(num, num)
    making = sizes.gram + sizes.factors
    # The matrix is overwritten by its eigenvectors; the work space is as large as two of it.
    decomposing = (sizes.gram + square if keeps_gram else max(sizes.gram, square)) + 2 * square
    rotating = (sizes.gram if keeps_gram else 0.0) + 2 * square + sizes.numbers(num + sizes.num_others, num)
    return Held(max(making, decomposing, rotating) + doubles(sizes.num_others, num))


def projected_memory(sizes: Sizes, dim: int, max_dim: int, num_draws: int, is_drawn_from_gram: bool) -> Held:
    """Return what the answer in a projection holds at most: while gradients are projected, or rows rotated.

    Args:
        sizes: Of the study.
        dim: k.
        max_dim: k_max, whose features are held for other k and methods.
        num_draws: Draws of the projection that are held at once.
        is_drawn_from_gram: Whether the Gram matrix is taken, and not the gradients.
    """
    one = sizes.numbers(sizes.num_vectors, max_dim)
    if is_drawn_from_gram:
        # Gram matrix, its root in float64 and in float32; then noise beside the last.
        making = Held(max(sizes.factors + sizes.gram, 2 * sizes.gram + sizes.gram / 2 + one))
    elif sizes.factor_numbers:
        making = Held(sizes.factors)
    else:
        making = sizes.streamed
    making += one * num_draws
    rotated = sizes.numbers(sizes.num_train + sizes.num_others, min(dim, sizes.num_train))
    sliced = sizes.numbers(sizes.num_vectors, dim) if dim < max_dim else 0.0
    inner = min(dim, sizes.num_train)
    solving = one * num_draws + sliced + rotated + 4 * doubles(inner, inner) + 2 * doubles(_ROWS, dim)
    if dim >= sizes.num_train:
        solving += doubles(sizes.num_train, dim)
    return Held(max(making.usual, solving), min(making.saved, max(0.0, making.usual - solving)))


def spectrum_seconds(sizes: Sizes, dim: int | None, takes_gram: bool, is_first: bool) -> float:
    """Return what the spectrum takes.

    Args:
        sizes: Of the study.
        dim: k; ``None``: unprojected.
        takes_gram: Whether it takes the Gram matrix, and not the gradients.
        is_first: Whether no step before holds the Gram matrix, or the projected gradients, in memory.
    """
    num, inner = sizes.num_vectors, min(dim or sizes.num_train, sizes.num_train)
    seconds = LEAST_SECONDS + eigenvectors(sizes, inner) + product(sizes, num, inner, inner)
    if dim is not None:
        seconds += product(sizes, sizes.num_train, inner, dim)
    if not is_first:
        return seconds
    if takes_gram:
        made = product(sizes, num, sizes.factor_numbers, num) if sizes.factor_numbers else copied(sizes, sizes.gram)
        drawn = 0.0 if dim is None else eigenvectors(sizes, num) / 8 + product(sizes, num, num, dim, single=True)
        return seconds + made + drawn
    passed = 0.0 if sizes.factor_numbers else backward(sizes, num)
    return seconds + passed + projecting(sizes, num)
