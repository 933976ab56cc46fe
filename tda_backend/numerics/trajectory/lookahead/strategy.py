"""Which examples of a batch to train on: the strategies that are compared, and keeping the top share by score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor

from tda_backend.errors import UsageError
from tda_backend.numerics.trajectory.unrolled.influence import ASSUMPTIONS, Assume
from tda_backend.numerics.trajectory.unrolled.objective import BATCH_CURVATURES, BatchCurvature

Kind = Literal["look-ahead", "alignment", "random", "full"]
RANDOM: Final = "random"
KINDS: tuple[Kind, ...] = ("look-ahead", "alignment", RANDOM, "full")
Scope = Literal["batch", "window"]
SCOPES: tuple[Scope, ...] = ("batch", "window")


@dataclass(frozen=True)
class Strategy:
    """How the examples of a batch are chosen.

    Attributes:
        kind: ``look-ahead``, ``alignment`` (plain gradient product), ``random`` or ``full``.
        horizon: K, steps of a window of ``look-ahead``; ``None`` for one window over the whole run. The others take
            step by step.
        fraction: Share to keep, in (0, 1]; ``full`` keeps all.
        assume: ``sgd`` scores as if plain SGD were training: the mismatched baseline.
        curvature: What stands for a batch's second derivative inside a window.
        scope: ``batch``: every step keeps its own share (at least one), rounded. ``window``: the share is of the
            window, and steps may keep more or less, at least one.

    What is trained on is the mean over the kept examples, so that taking z out also takes its share from the others:
    to first order the held-out loss rises by (s(z) − mean of s over the batch)·|B|/(|B| − 1). The mean is the same for
    all examples of a batch. Per batch the order is thus the same whether |B| stays or shrinks, which is why that is
    the default; per window the scores are compared after subtracting their batch's mean. Derived here.
    """

    kind: Kind = "look-ahead"
    horizon: int | None = 1
    fraction: float = 0.5
    assume: Assume = "as trained"
    curvature: BatchCurvature = "hessian"
    scope: Scope = "batch"

    def __post_init__(self) -> None:
        """Raise :class:`UsageError` unless every field has an allowed value."""
        allowed = {
            "kind": KINDS,
            "assume": ASSUMPTIONS,
            "curvature": BATCH_CURVATURES,
            "scope": SCOPES,
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise UsageError(f'{name} of a selection is "{getattr(self, name)}".', f"Allowed: {', '.join(values)}.")
        if self.horizon is not None and self.horizon < 1:
            raise UsageError(
                f"A look-ahead of {self.horizon} steps is asked for.", "At least 1; None for the whole run."
            )
        if not 0 < self.fraction <= 1:
            raise UsageError(f"The share of examples to keep is {self.fraction}.", "It lies in (0, 1].")

    def window(self, total_steps: int) -> int:
        """Return how many steps are chosen for at once in a run of ``total_steps``."""
        if self.kind != "look-ahead":
            return 1
        return total_steps if self.horizon is None else min(self.horizon, total_steps)

    @property
    def share(self) -> float:
        """Share of examples that is kept."""
        return 1.0 if self.kind == "full" else self.fraction

    @property
    def has_scores(self) -> bool:
        """Whether examples are kept by scores that mean something, not by random draws."""
        return self.kind in ("look-ahead", "alignment")

    @property
    def family(self) -> str:
        """What a person calls the strategy apart from its horizon: the settings compared when tuning."""
        if self.kind != "look-ahead":
            return {"alignment": "Gradient alignment", RANDOM: "Random", "full": "Full data"}[self.kind]
        parts = [] if self.assume == "as trained" else ["assuming SGD"]
        parts += [] if self.curvature == "hessian" else [f"curvature {self.curvature}"]
        parts += [] if self.scope == "batch" else ["per window"]
        return ", ".join(["Look-ahead", *parts])

    @property
    def name(self) -> str:
        """What a person calls the strategy."""
        if self.kind != "look-ahead":
            return self.family
        return f"{self.family}, K = {'T' if self.horizon is None else self.horizon}"


def keep(scores: Sequence[Tensor], fraction: float, scope: Scope = "batch") -> list[Tensor]:
    """Return which candidates of each step are kept, bool ``[b]`` each: the top share, at least one of each step.

    Args:
        scores: One ``[b]`` per step, larger = rather keep. Of equal ones the earlier in the batch is kept.
        fraction: Share to keep; of each batch b·fraction is rounded, of a window the sum over its batches.
        scope: As :class:`Strategy`.
    """
    if scope == "batch":
        return [_top(values, _rounded(fraction * len(values))) for values in scores]
    sizes = [len(values) for values in scores]
    best = [_top(values, 1) for values in scores]
    rest = [values - values.mean() for values in scores]
    joined = torch.cat([values.masked_fill(first, torch.inf) for values, first in zip(rest, best, strict=True)])
    return list(_top(joined, max(len(sizes), _rounded(fraction * sum(sizes)))).split(sizes))


def predicted_change(scores: Sequence[Tensor], masks: Sequence[Tensor]) -> float:
    """Return what scores say the held-out loss changes by if training goes on with the kept ones, to first order.

    Of k kept among |B| the weights go from 1 to |B|/k, of the others to 0; a score is the rise for a weight taken to 0.
    """
    return -sum(
        float((values * (mask * (len(mask) / mask.sum()) - 1)).sum())
        for values, mask in zip(scores, masks, strict=True)
    )


def _top(values: Tensor, count: int) -> Tensor:
    mask = torch.zeros(len(values), dtype=torch.bool, device=values.device)
    mask[values.argsort(descending=True, stable=True)[:count]] = True
    return mask


def _rounded(count: float) -> int:
    return max(1, math.floor(count + 0.5))
