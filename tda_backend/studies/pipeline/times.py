"""How long parts of steps take: operations over the machine's rates, and rows times what a pass takes of each.

Rates and passes are those of :class:`Pace`, measured as a study is planned. Numbers of calls follow from the sizes of
batches; constants here are of work in Python, which was measured.
"""

from __future__ import annotations

import math

from tda_backend.studies.pipeline.sizes import GIB, PASS_ROWS, Sizes

LEAST_SECONDS = 0.05
"""What a step takes that computes next to nothing: files, checksums, the catalogue."""
SHOWN_SECONDS = 7e-5
"""What it takes to write down how one example looks."""


def forward(sizes: Sizes, rows: float) -> float:
    """Return what a forward pass over rows takes."""
    return sizes.pace.forward_seconds.of(rows, math.ceil(rows / PASS_ROWS))


def backward(sizes: Sizes, rows: float) -> float:
    """Return what a forward and backward pass over rows takes."""
    return sizes.pace.backward_seconds.of(rows, math.ceil(rows / PASS_ROWS))


def product(sizes: Sizes, rows: float, inner: float, columns: float, *, single: bool = False) -> float:
    """Return what a product of matrices takes, in float64 unless ``single``."""
    rates = sizes.pace.machine
    return 2 * rows * inner * columns / (rates.single if single else rates.double)


def eigenvectors(sizes: Sizes, num: float) -> float:
    """Return what the eigenvectors of a matrix num × num take."""
    return num**3 / sizes.pace.machine.eigh


def copied(sizes: Sizes, gib: float) -> float:
    """Return what reading and writing so much takes."""
    return gib * GIB / sizes.pace.machine.copied


def verifying(sizes: Sizes, checkpoints: int) -> float:
    """Return what verifying the margin identity on all training rows takes, at so many checkpoints."""
    return checkpoints * backward(sizes, sizes.num_train) if sizes.checks_identity else 0.0


def projecting(sizes: Sizes, rows: float) -> float:
    """Return what it takes to form gradients of rows and to add every entry to its bucket: 8 bytes are moved for it."""
    return copied(sizes, rows * sizes.num_parameters * 8 / GIB)
