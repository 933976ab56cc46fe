"""What of a study fits into less memory: other projections, the largest eigenvalues alone, or fewer examples.

Each is planned and not guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tda_backend.errors import TDAError
from tda_backend.studies.config.hyperparameter import NONE
from tda_backend.studies.config.study import Study
from tda_backend.studies.contract.method import method
from tda_backend.studies.pipeline.sizes import in_words
from tda_backend.studies.steps.spectrum import DRAWN_FROM_GRAM, KEPT, STRUCTURED

MemoryOf = Callable[[Study], float]
"""A study → GiB that it needs at least."""
DIMS = (4096, 2048, 1024, 512, 256, 128)
"""Projections, and numbers of eigenvalues, that are tried where more take too much."""
FEWEST_EXAMPLES = 50
_DIGITS = 2
"""Of the number of examples that is named."""


@dataclass(frozen=True)
class Change:
    """A study in which something is smaller.

    Attributes:
        study: With the change.
        settings: What was changed, by its name in the study file.
    """

    study: Study
    settings: Mapping[str, Any]

    def words(self, gib: float) -> str:
        """Return the change as ``tda run`` takes it, with what it then needs."""
        return f"{' '.join(f'--set {name}={value}' for name, value in self.settings.items())} ({in_words(gib)} GiB)"


def what_fits(study: Study, memory_of: MemoryOf, available: float) -> list[str]:
    """Return changes with which a study fits, in words: the same examples first, then the same settings.

    Args:
        study: That does not fit.
        memory_of: Plans a study.
        available: GiB.
    """

    def needed(changed: Study) -> float:
        try:
            return memory_of(changed)
        except TDAError:  # the task or a method does not allow it
            return float("inf")

    found = []
    for changes in (_other_projections(study), _leading_eigenvalues(study)):
        for change in changes:
            gib = needed(change.study)
            if gib <= available:
                found.append(change.words(gib))
                break
    fewer = _fewer_examples(study, needed, available)
    if fewer is not None:
        found.append(fewer.words(needed(fewer.study)))
    return found


def _other_projections(study: Study) -> Iterator[Change]:
    """Yield a study with what takes most memory left out, then more and more of it."""
    structured = Change(study, {})
    if study.projection.kind == DRAWN_FROM_GRAM:
        kind = replace(study.projection, kind=STRUCTURED)
        structured = Change(replace(study, projection=kind), {"projection.kind": STRUCTURED})
        yield structured
    asked = {name: settings["projection_dim"] for name, settings in study.methods.items() if _dims(settings)}
    for largest in DIMS:
        smaller = {name: _at_most(values, largest) for name, values in asked.items()}
        changed = {name: values for name, values in smaller.items() if values != list(asked[name])}
        if not changed:
            continue
        methods = {name: {**settings, **_with(name, smaller)} for name, settings in study.methods.items()}
        most = max(value for values in smaller.values() for value in values)
        kinds = replace(structured.study.projection, max_dim=most)
        settings = {f"methods.{name}.projection_dim": _listed(values) for name, values in changed.items()}
        settings |= {"projection.max_dim": most} if most != study.projection.max_dim else {}
        yield Change(replace(structured.study, methods=methods, projection=kinds), {**structured.settings, **settings})


def _leading_eigenvalues(study: Study) -> Iterator[Change]:
    """Yield a study whose unprojected methods keep fewer and fewer eigenvalues, where all of these can."""
    exact = [name for name, settings in study.methods.items() if NONE in _dims(settings)]
    if not exact or any(method(name).hyperparameter(KEPT) is None for name in exact):
        return
    for most in DIMS:
        kept = {name: {**study.methods[name], KEPT: [most]} for name in exact}
        changed = replace(study, methods={**study.methods, **kept})
        yield Change(changed, {f"methods.{name}.{KEPT}": most for name in exact})


def _dims(settings: Mapping[str, Any]) -> Sequence[Any]:
    return settings.get("projection_dim", ())


def _with(name: str, dims: Mapping[str, list[Any]]) -> dict[str, Any]:
    return {"projection_dim": dims[name]} if name in dims else {}


def _at_most(values: Sequence[Any], largest: int) -> list[Any]:
    return list(dict.fromkeys(largest if value == NONE else min(value, largest) for value in values))


def _listed(values: Sequence[Any]) -> str:
    return str(values[0]) if len(values) == 1 else f"[{','.join(map(str, values))}]"


def _fewer_examples(study: Study, needed: MemoryOf, available: float) -> Change | None:
    """Return the study with as many training examples as fit, rounded down; ``None``: no number does."""

    def fits(count: int) -> bool:
        return needed(_with_train(study, count)) <= available

    low, high = FEWEST_EXAMPLES, study.data.train
    if low >= high or not fits(low):
        return None
    while high - low > max(1, low // 100):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    unit = 10 ** max(0, len(str(low)) - _DIGITS)
    count = max(FEWEST_EXAMPLES, low // unit * unit)
    return Change(_with_train(study, count), {"data.train": count})


def _with_train(study: Study, count: int) -> Study:
    return replace(study, data=replace(study.data, train=count))
