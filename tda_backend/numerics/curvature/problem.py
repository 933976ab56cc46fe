"""What every ambient solver shares: a curvature, query gradients v, and scores ⟨−∇ℓ_i, x⟩ of solutions x."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tda_backend.errors import TaskError
from tda_backend.models.probe import Probe, home_of
from tda_backend.numerics.curvature.parameters import flat_gradients
from tda_backend.numerics.curvature.products.base import CurvatureProduct
from tda_backend.numerics.curvature.products.curvature_product import curvature_product, loss_gradient_products
from tda_backend.numerics.curvature.pseudo_gradients import Curvature
from tda_backend.numerics.features.streaming import naming_group
from tda_backend.numerics.spectral.contraction import ScoreMatrix

_SOLVED_NUMBERS = 2**25
"""Numbers (128 MiB of float32) in one vector of a solver's state; more queries go in turns."""


@dataclass(frozen=True)
class AmbientProblem:
    """(C + λI)x = φ' for every query, in the space of all parameters. Prepared once, solved for any λ.

    Attributes:
        product: C of the mean training loss.
        losses: The empirical Fisher's product, which knows the training gradients.
        queries: ``[m, p]`` gradients of goodness φ', at the probe's home.
    """

    product: CurvatureProduct
    losses: CurvatureProduct
    queries: Tensor

    def scores(self, solve: Callable[[Tensor], Tensor]) -> ScoreMatrix:
        """Return ``−⟨∇ℓ_i, x⟩`` for the solutions x of all queries, ``[m, n]``; positive helps.

        Args:
            solve: From ``[q, p]`` vectors to their solutions; columns are independent, so queries go in turns where
                memory asks for it.
        """
        size = max(1, _SOLVED_NUMBERS // self.product.num_parameters)
        device = self.product.device
        parts = [-loss_gradient_products(self.losses, solve(part.to(device))) for part in self.queries.split(size)]
        return ScoreMatrix(torch.cat(parts))


def ambient_problem(probe: Probe, curvature: Curvature) -> AmbientProblem:
    """Take what the solvers need at one checkpoint: curvature products, query and training gradients.

    Args:
        probe: Task, model, and the train and query rows.
        curvature: C.

    Raises:
        TaskError: There are no queries or train examples, or the task lacks what the curvature needs.
        NumericalError: A gradient is not finite.
    """
    if probe.count("query") == 0:
        raise TaskError("There are no query examples.", "Give at least one index.")
    product = curvature_product(probe, curvature)
    knows_losses = curvature.kind == "empirical-fisher"
    losses = product if knows_losses else curvature_product(probe, Curvature("empirical-fisher"))
    with naming_group("query"):
        queries = flat_gradients(probe, "query", "goodness")
    return AmbientProblem(product, losses, queries)


def squared_norms(vectors: Tensor) -> Tensor:
    """Return ‖v‖² of each row, ``[q]`` float64."""
    return row_products(vectors, vectors)


def row_products(left: Tensor, right: Tensor) -> Tensor:
    """Return ⟨a, b⟩ row by row with float64 sums, ``[q]``; on the CPU beside a device that has no float64."""
    products = left * right
    return products.to(home_of(products.device)).sum(1, dtype=torch.float64)
