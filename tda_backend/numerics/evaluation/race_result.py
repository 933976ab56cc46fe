"""How a race over retrainings stands after each of them, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Look:
    """The race after one more retraining.

    Attributes:
        num_retrainings: s.
        leader: Candidate with the highest LDS among the survivors.
        lds: Its LDS on the first s subsets.
        num_survivors: Candidates not eliminated after this look.
        largest_gap: Largest upper confidence limit, over the other survivors, of their LDS minus the leader's: the
            leader is at most this much worse than the best; −inf if it is alone, NaN where nothing was judged.
    """

    num_retrainings: int
    leader: int
    lds: float
    num_survivors: int
    largest_gap: float


@dataclass(frozen=True)
class RaceResult:
    """How a race ended.

    Attributes:
        winner: Leading candidate.
        lds: Its LDS on the retrainings used.
        num_retrainings: Used.
        decided: The winner is within ``tolerance`` of the best at the confidence asked for; otherwise the retrainings
            ran out.
        survivors: ``[a]`` candidates not eliminated, best first.
        history: One :class:`Look` per retraining from the second on.
        tolerance: As given.
        confidence: As given.
    """

    winner: int
    lds: float
    num_retrainings: int
    decided: bool
    survivors: np.ndarray
    history: tuple[Look, ...]
    tolerance: float
    confidence: float

    @property
    def sentence(self) -> str:
        """The result for a person."""
        if self.decided:
            return (
                f"After {self.num_retrainings} retrainings the winner is within {self.tolerance:g} LDS of the best "
                f"(confidence {100 * self.confidence:g} %; {len(self.survivors)} candidates remain)."
            )
        judged = [look.largest_gap for look in self.history if not np.isnan(look.largest_gap)]
        behind = f", the leader may be up to {judged[-1]:.2g} LDS behind the best" if judged else ""
        return f"{self.num_retrainings} retrainings do not decide it: {len(self.survivors)} candidates remain{behind}."
