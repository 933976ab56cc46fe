"""What less than float32 cost the gradients of a study, in words."""

from __future__ import annotations

from tda_backend.interfaces.reading.study import Study
from tda_backend.numerics.features.rounding import RoundingError
from tda_backend.studies.steps.rounding import GRADIENT_ERROR
from tda_backend.studies.store import repository
from tda_backend.studies.store.artifacts import ArtifactStore


def gradient_errors(study: Study) -> list[RoundingError]:
    """Return how far gradients lie from those in float32, as each finished step measured it at its checkpoint."""
    if study.resolved.precision is None:
        return []
    store = ArtifactStore(study.workspace.artifacts, study.workspace.read_only)
    timings = study.timings()
    remarked = set(timings.label[timings.remark.notna()])
    steps = repository.ingested_steps(study.workspace, study.study_id)
    found = [store.open(step.key).fact(GRADIENT_ERROR) for step in steps if step.label in remarked]
    return [RoundingError(**error) for error in found if error is not None]


def gradients_rounded(study: Study) -> str:
    """Return in which precision the gradients of a study were passed and what that cost; nothing for float32."""
    errors = gradient_errors(study)
    if not errors:
        return ""
    low, high = (f"{100 * pick(each.median for each in errors):.2g} %" for pick in (min, max))
    worst = max(each.worst for each in errors)
    return (
        f"Gradients are passed in {errors[0].precision}: they differ from those in float32 by "
        f"{low if low == high else f'{low} to {high}'} of their length in the median of some training examples, by "
        f"{100 * worst:.2g} % at worst. Scores at small λ magnify it."
    )
