"""How large a study may be: limits on what its settings make together. Each setting has its own beside its check."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tda_backend.errors import StudyError
from tda_backend.studies.config.study import Study
from tda_backend.studies.pipeline.step import Step

MOST_CONFIGURATIONS = 5000
MOST_RETRAININGS = 1_000_000


def check_combinations(study: Study) -> None:
    """Raise a StudyError where the methods' settings make more configurations than anybody can look at.

    Counted before any is made: lists of a thousand values in each setting would take for ever.
    """
    counts = {
        name: math.prod(len(value) for value in settings.values() if isinstance(value, list | tuple) and value)
        for name, settings in study.methods.items()
    }
    total = sum(counts.values())
    if total > MOST_CONFIGURATIONS:
        largest = max(counts, key=lambda name: counts[name])
        raise StudyError(
            f"The study asks for up to {total} configurations, most of them of {largest}; the limit is "
            f"{MOST_CONFIGURATIONS}.",
            f"Give fewer values in [methods.{largest}], or make several studies.",
        )


def check_retrainings(steps: Sequence[Step]) -> None:
    """Raise a StudyError where a plan trains more models than any machine will."""
    models = sum(step.cost.models for step in steps)
    if models > MOST_RETRAININGS:
        raise StudyError(
            f"The study trains up to {models} models; the limit is {MOST_RETRAININGS}.",
            "Ask for fewer subsets, repeats, seeds or sizes.",
        )
