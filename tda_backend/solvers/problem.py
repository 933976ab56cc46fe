"""What every ambient solver shares: a curvature, query gradients v, and scores ⟨−∇ℓ_i, x⟩ of solutions x."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tda_backend.errors import NumericalError, TaskError
from tda_backend.solvers.parameters import flat_gradients
from tda_backend.solvers.products import CurvatureProduct, curvature_product, inner_products
from tda_backend.solvers.pseudo_gradients import CurvatureKind
from tda_backend.spectral.contraction import ScoreMatrix
from tda_backend.types import Batch, Task

_SOLVED_NUMBERS = 2**25
"""Numbers (128 MiB of float32) in one vector of a solver's state; more queries go in turns."""


@dataclass(frozen=True)
class AmbientProblem:
    """(C + λI)x = φ' for every query, in the space of all parameters. Prepared once, solved for any λ.

    Attributes:
        product: C of the mean training loss.
        losses: The empirical Fisher's product, which knows the training gradients.
        queries: ``[m, p]`` gradients of goodness φ', on the CPU.
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
        parts = [-inner_products(self.losses, solve(part.to(device))) for part in self.queries.split(size)]
        return ScoreMatrix(torch.cat(parts))


def ambient_problem(
    task: Task,
    model: nn.Module,
    data: Mapping[str, Batch],
    train_indices: Sequence[int] | Tensor,
    query_indices: Sequence[int] | Tensor,
    *,
    curvature: CurvatureKind,
    seed: int = 0,
    num_samples: int = 1,
    device: torch.device | str = "cpu",
    batch_size: int = 512,
) -> AmbientProblem:
    """Take what the solvers need at one checkpoint: curvature products, query and training gradients.

    Args:
        task: Measurement, its sign, and loss.
        model: At the checkpoint; used in eval mode.
        data: ``train`` and ``test`` splits.
        train_indices: Rows of the train split, n.
        query_indices: Rows of the test split, m.
        curvature: ``hessian``, ``ggn``, ``empirical-fisher`` or ``true-fisher``.
        seed: For the labels of the true Fisher.
        num_samples: Labels drawn per example for the true Fisher.
        device: Where the products run.
        batch_size: Examples per pass; results do not depend on it.

    Raises:
        TaskError: There are no queries or train examples, or the task lacks what the curvature needs.
        NumericalError: A gradient is not finite.
    """
    if len(torch.as_tensor(query_indices)) == 0:
        raise TaskError("There are no query examples.", "Give at least one index.")
    train = data["train"]
    product = curvature_product(
        task, model, train, train_indices, curvature,
        seed=seed, num_samples=num_samples, device=device, batch_size=batch_size,
    )  # fmt: skip
    losses = product
    if curvature != "empirical-fisher":
        losses = curvature_product(
            task, model, train, train_indices, "empirical-fisher", device=device, batch_size=batch_size
        )
    try:
        queries = flat_gradients(
            task, model, data["test"], query_indices, "goodness", device=device, batch_size=batch_size
        )
    except NumericalError as error:
        raise NumericalError(f"In the query examples: {error.message}", error.hint) from error
    return AmbientProblem(product, losses, queries)


def squared_norms(vectors: Tensor) -> Tensor:
    """Return ‖v‖² of each row, ``[q]`` float64."""
    return row_products(vectors, vectors)


def row_products(left: Tensor, right: Tensor) -> Tensor:
    """Return ⟨a, b⟩ row by row with float64 sums, ``[q]``."""
    return (left * right).sum(1, dtype=torch.float64)
