"""The examples whose change is asked for when others are left out of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from torch import Tensor

from tda_backend.errors import UsageError

Split = Literal["train", "test"]
Quantity = Literal["goodness", "loss"]


@dataclass(frozen=True)
class Queries:
    """Examples of one split, and what is asked about them.

    Attributes:
        rows: Rows of the split, ``[m]``.
        split: Where they are.
        quantity: ``goodness`` (measurement_sign · measurement) or the training ``loss``.

    Raises:
        UsageError: Another quantity.
    """

    rows: Sequence[int] | np.ndarray | Tensor
    split: Split = "test"
    quantity: Quantity = "goodness"

    def __post_init__(self) -> None:
        if self.quantity not in get_args(Quantity):
            allowed = ", ".join(get_args(Quantity))
            raise UsageError(f'There is no quantity "{self.quantity}".', f"Allowed: {allowed}.")
