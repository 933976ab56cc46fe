"""LiSSA: the stochastic recursion itself, with batches drawn at random.

``x_{j+1} = v + (1−d)x_j − C_{B_j}x_j/s`` from x₀ = v; the result is x_T/s, averaged over repeats. d = λ/s, so its fixed
point is (C+λI)⁻¹v. Its mean over batches is the filter ``LissaMean``.
Taming (arXiv 2505.24261), appendix A.1; METHODS §3.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tda_backend.errors import NumericalError, UsageError
from tda_backend.numerics.attribution.arnoldi import extreme_eigenvalues
from tda_backend.numerics.curvature.problem import AmbientProblem, squared_norms
from tda_backend.numerics.curvature.products.base import CurvatureProduct
from tda_backend.numerics.spectral.contraction import ScoreMatrix
from tda_backend.numerics.spectral.filters.lissa import check_lissa, check_scaling
from tda_backend.seeds import hashed_rng

_GROWTH = 1e3
"""How much longer than (j+1)·‖v‖, the most that mean iterations give, x_j may become before it counts as divergence."""


@dataclass(frozen=True)
class LissaSettings:
    """Hyper-parameters of the recursion, beside λ.

    Attributes:
        scaling: s > 0.
        depth: T ≥ 0 iterations.
        batch_size: Examples per random batch (part of the method; drawn without replacement within a batch).
        num_repeats: Independent runs that are averaged.
        seed: Batches are drawn by hashes of (seed, repeat, step).
    """

    scaling: float = 5.0
    depth: int = 1000
    batch_size: int = 50
    num_repeats: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        check_scaling(self.scaling, self.depth)
        if self.batch_size < 1 or self.num_repeats < 1:
            raise UsageError(
                f"LiSSA got batches of {self.batch_size} and {self.num_repeats} repeats.", "Give at least 1 of each."
            )


def lissa_scores(problem: AmbientProblem, regularization: float, settings: LissaSettings) -> ScoreMatrix:
    """Return influence scores −⟨∇ℓ_i, x_T/s⟩ with x_T from the random recursion, ``[m, n]``; positive helps.

    All queries see the same batches, so a query's scores do not depend on which others are asked.

    Args:
        problem: From :func:`~tda_backend.numerics.curvature.problem.ambient_problem`.
        regularization: λ ≥ 0, in units of the mean curvature.
        settings: The recursion's.

    Raises:
        NumericalError: 0 ≤ d + σ/s < 2 does not hold on the whole data, or a run diverges; names the step.
    """
    product = problem.product
    smallest, largest = extreme_eigenvalues(product, seed=settings.seed)
    noise = 100 * torch.finfo(product.dtype).eps * max(largest, -smallest)
    bottom = 0.0 if -noise < smallest < 0 else smallest
    check_lissa(bottom, largest, regularization, settings.scaling, product.name)
    return problem.scores(lambda vectors: lissa(product, vectors, regularization, settings))


def lissa(product: CurvatureProduct, vectors: Tensor, regularization: float, settings: LissaSettings) -> Tensor:
    """Return x_T/s averaged over repeats for each vector, ``[q, p]``; see :func:`lissa_scores`.

    Raises:
        NumericalError: The recursion diverges; names repeat, step, s and d.
    """
    scaling, depth = settings.scaling, settings.depth
    damping = regularization / scaling
    total = torch.zeros_like(vectors)
    limit = squared_norms(vectors).sqrt()
    for repeat in range(settings.num_repeats):
        state = vectors.clone()
        for step in range(depth):
            rows = random_batch(product.num_train, settings.batch_size, settings.seed, repeat, step)
            curved = product(state, rows)
            state.mul_(1 - damping).add_(vectors).sub_(curved, alpha=1 / scaling)
            length = squared_norms(state).sqrt()
            bad = ~(length <= _GROWTH * (step + 2) * limit)
            if bool(bad.any()):
                raise NumericalError(
                    f"LiSSA diverges on the {product.name} at step {step + 1} of {depth} (repeat {repeat + 1}): ‖x‖ is "
                    f"{float((length / limit)[bad][0]):.3g} times ‖v‖ with s = {scaling:g}, d = λ/s = {damping:.3g}, "
                    f"batches of {settings.batch_size}.",
                    "Give a larger scaling s or larger batches: a batch's largest eigenvalue exceeds the mean's.",
                )
        total += state
    return total.div_(scaling * settings.num_repeats)


def random_batch(num_train: int, batch_size: int, seed: int, repeat: int, step: int) -> Tensor | None:
    """Return the positions of one random batch, sorted int64; ``None`` where it is all of the data."""
    if batch_size >= num_train:
        return None
    rng = hashed_rng("lissa", seed, repeat, step)
    chosen = rng.choice(num_train, batch_size, replace=False, shuffle=False)
    chosen.sort()
    return torch.from_numpy(chosen)
