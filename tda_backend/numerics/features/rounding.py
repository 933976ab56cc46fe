"""How far gradients that are passed in less than float32 lie from those in float32, measured on a few examples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tda_backend.models.probe import Probe
from tda_backend.numerics.features.dense import Request, dense_gradient_blocks
from tda_backend.numerics.features.factors import linear_factors, untracked_parameters
from tda_backend.numerics.features.gram import inner_products
from tda_backend.numerics.features.streaming import Quantity
from tda_backend.seeds import hashed_rng

MEASURED = 16
"""Training examples that are passed in both precisions."""


@dataclass(frozen=True)
class RoundingError:
    """‖g − g₃₂‖/‖g₃₂‖ of whole per-example gradients: g in a precision, g₃₂ in float32.

    Attributes:
        precision: Of g.
        num_examples: On how many it was measured; those whose gradient is zero in float32 do not count.
        median: Over the examples.
        worst: The largest of them.
    """

    precision: str
    num_examples: int
    median: float
    worst: float

    @property
    def text(self) -> str:
        """The error in words."""
        return (
            f"gradients in {self.precision} differ from those in float32 by {self.median:.2g} of their length "
            f"(median of {self.num_examples} training examples; at worst {self.worst:.2g})"
        )


def rounding_error(probe: Probe, quantity: Quantity, num_examples: int = MEASURED) -> RoundingError:
    """Measure what a probe's precision costs its gradients, on training examples drawn at random.

    Args:
        probe: Its precision is what is compared with float32.
        quantity: What is differentiated.
        num_examples: At most so many; which ones follows from the number of training examples alone.

    Raises:
        TaskError: As the passes raise it.
        NumericalError: A gradient is not finite.
    """
    total = probe.count("train")
    drawn = hashed_rng("rounding error", total).permutation(total)[:num_examples]
    chosen = probe.only("train", probe.rows("train")[torch.from_numpy(drawn).sort().values])
    squares = _dense if untracked_parameters(probe.model) else _factored
    norms, distances = squares(chosen, quantity)
    known = norms > 0
    errors = (distances[known].clamp(min=0) / norms[known]).sqrt()
    if not len(errors):
        return RoundingError(probe.precision, 0, 0.0, 0.0)
    return RoundingError(probe.precision, len(errors), float(errors.quantile(0.5)), float(errors.max()))


def _factored(probe: Probe, quantity: Quantity) -> tuple[Tensor, Tensor]:
    """Return ‖g₃₂‖² and ‖g − g₃₂‖², ``[N]`` float64, from factors: exact to float64's rounding of ‖g₃₂‖²."""
    (found, _), (exact, _) = (linear_factors(each, "train", quantity) for each in (probe, probe.in_full()))
    norms = exact.squared_norms()
    return norms, norms + found.squared_norms() - 2 * inner_products(found, exact).diagonal()


def _dense(probe: Probe, quantity: Quantity) -> tuple[Tensor, Tensor]:
    """Return the same of a model with any layers, block of parameters by block."""
    request = [Request("train", quantity)]
    norms = torch.zeros(probe.count("train"), dtype=torch.float64, device=probe.home)
    distances = torch.zeros_like(norms)
    both = zip(dense_gradient_blocks(probe, request), dense_gradient_blocks(probe.in_full(), request), strict=True)
    for found, exact in both:
        norms += exact.values.to(torch.float64).square_().sum(1)
        distances += (found.values.to(torch.float64) - exact.values).square_().sum(1)
    return norms, distances
