"""Inner products of some dense gradients with others, and all norms: what needs no matrix of all with all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tda_backend.blocks import spans
from tda_backend.models.probe import Probe
from tda_backend.numerics.features.dense import BUDGET_NUMBERS, Request, dense_gradient_blocks

_BATCH = 64
"""Examples per pass: one gradient per example is held on the device."""
_COLUMNS = 2048
"""Parameters whose gradients are in float64 at a time."""


def dense_products(
    probe: Probe, requests: Sequence[Request], left: slice, right: slice, *, budget_numbers: int = BUDGET_NUMBERS
) -> tuple[Tensor, Tensor]:
    """Return raw inner products of some gradients with others, for models with any layers, and all squared norms.

    Args:
        probe: Any model without interaction between examples in eval mode.
        requests: Whose N gradients, in row order.
        left: Some of the N rows.
        right: Some of the N rows.
        budget_numbers: Numbers in one block of gradients.

    Returns:
        Products ``[left, right]`` and squares ``[N]``, float64.

    Raises:
        NumericalError: A gradient is not finite.
    """
    num = sum(probe.count(request.group) for request in requests)
    products = torch.zeros(left.stop - left.start, right.stop - right.start, dtype=torch.float64, device=probe.home)
    squares = products.new_zeros(num)
    for block in dense_gradient_blocks(probe.in_batches(_BATCH), requests, budget_numbers=budget_numbers):
        for columns in spans(block.values.shape[1], _COLUMNS):
            part = block.values[:, columns].to(torch.float64)
            products.addmm_(part[left], part[right].T)
            squares += part.square().sum(1)
    return products, squares
