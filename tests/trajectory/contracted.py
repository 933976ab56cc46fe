"""SOURCE from explicit gradients: the backward walk contracted segment by segment, nothing streamed."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from tda_backend.numerics.trajectory.source.walk import SegmentOperator, walk


def contract_walk(
    operators: Sequence[SegmentOperator],
    gradients: Sequence[Tensor],
    query: Tensor,
    weights: Sequence[Tensor | float] | None = None,
) -> Tensor:
    """Return −Σ_ℓ w_ℓ(z)·v_ℓ·ḡ_ℓ(z) of explicit gradients, ``[m, n]``; positive helps.

    f(D∖z) − f(D) ≈ (1/N)Σ_ℓ v_ℓ·ḡ_ℓ(z) for a goodness f; a score is n times the *loss* of goodness on removal.

    Args:
        operators: One per segment, in order of time.
        gradients: ḡ_ℓ, the training-loss gradients averaged over the segment's checkpoints, ``[n, p]`` each, in the
            segment's coordinates.
        query: φ', gradients of goodness at the end of the run, ``[m, p]``, in those of the last segment.
        weights: n·1{z ∈ D_ℓ}/N_ℓ of each segment, ``[n]`` or a number; ``None`` where all train on all n.
    """
    scores = query.new_zeros(len(query), len(gradients[0]))
    for index, response in walk(operators, query):
        scores -= (response @ gradients[index].T) * (1.0 if weights is None else weights[index])
    return scores
