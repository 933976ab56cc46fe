"""Claim: what a paper says, and how a study's figures are to be compared with it.

A kind of claim is a subclass of :class:`ClaimKind` in a file of its own (:mod:`tda_backend.studies.claims`); it owns
the form of its claims in a study file, the inputs that they need, the comparison, the words and the figure.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from numbers import Real
from typing import Any, ClassVar, Generic, Self, TypeVar

from tda_backend.errors import StudyError
from tda_backend.numerics.evaluation.claims import Comparison
from tda_backend.studies.config.configuration import Configuration
from tda_backend.studies.config.selector import Selector
from tda_backend.studies.config.study import Study
from tda_backend.studies.contract.choosing import choose
from tda_backend.studies.contract.evidence import Evidence

NOT_RUN = "not run"
"""Verdict on a claim without figures: its study was not run, or a configuration that it needs could not be computed."""
NOT_TESTED = "not tested as stated"
"""Verdict on a claim whose figures compare something else than the paper's statement is about; its note says what."""
PAPERS = {
    "taming": "Taming Hyperparameter Sensitivity in Data Attribution (arXiv 2505.24261)",
    "source": "Training Data Attribution via Approximate Unrolling (arXiv 2405.12186)",
    "trajectory": "AdamW-influence and trajectory error (arXiv 2605.18814)",
}
SHORT_NAMES = {"taming": "Taming", "source": "SOURCE", "trajectory": "AdamW-influence"}
"""How a table calls them."""
EVALUATED, SOURCES, REMOVED = "evaluate {}", "sources {}", "removal {}"
"""Roles of the inputs of a claim: the evaluation of a configuration, its sources, a subset removal."""
_TEXTS = ("id", "paper", "place", "statement", "check")


class FigureKind(Enum):
    """The figures that a claim can have."""

    COMPARED = "LDS over λ with the λ compared, or the LDS of what is compared"
    RANGES = "LDS over λ with its highest and lowest value"
    RULES = "LDS of each rule for λ, by configuration"
    INDICATOR = "ξ̄ over λ"
    SHAPES = "LDS over λ at each share α"
    REMOVALS = "share of queries that removing examples does not flip"
    TRAINING_RUN = "figures of the page on training trajectories"


class Content(ABC):
    """What a claim says beside what all claims have; a kind's own."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return it as the study file has it, checked."""

    def with_alpha(self, all_but_one: float) -> Self:
        """Return it with α = 1 − 1/n as the number that it is in a study."""
        return self


C = TypeVar("C", bound=Content)


@dataclass(frozen=True)
class Needs:
    """What a claim reads.

    Attributes:
        evaluated: Configurations, for their evaluations.
        apart: Configurations of which some models are looked at alone, for their sources.
        removals: Subset removals.
        section: A section of the study, whose name is the role of what it has made; empty: none.
    """

    evaluated: Sequence[Configuration] = ()
    apart: Sequence[Configuration] = ()
    removals: Sequence[Selector] = ()
    section: str = ""

    @property
    def roles(self) -> list[str]:
        """Roles of the inputs."""
        roles = [EVALUATED.format(each.configuration_id) for each in self.evaluated]
        roles += [SOURCES.format(each.configuration_id) for each in self.apart]
        roles += [REMOVED.format(removal_name(selector)) for selector in self.removals]
        return [*roles, self.section] if self.section else roles


def removal_name(selector: Selector) -> str:
    """Return what inputs call the subset removal of a selector."""
    return " ".join(f"{name}={value}" for name, value in sorted(selector.content.items()))


class ClaimKind(ABC, Generic[C]):
    """A kind of claim.

    Class attributes:
        NAME: In study files.
        WORDS: What it asks for; ```bound``` stands for the number.
        KEYS: Keys of a claim that it needs, beside those of every claim.
        DEFAULT_BOUND: Where a claim gives none.
        ABOVE: Whether what is compared must lie above the bound.
        AXIS: Title of the axis of its comparisons.
        FIGURE: What shows it.
        SECTION: Section of the study that it reads instead of configurations; empty: none.
    """

    NAME: ClassVar[str]
    WORDS: ClassVar[str]
    KEYS: ClassVar[tuple[str, ...]]
    DEFAULT_BOUND: ClassVar[float] = 0.0
    ABOVE: ClassVar[bool] = True
    AXIS: ClassVar[str] = "value, 95 % interval"
    FIGURE: ClassVar[FigureKind] = FigureKind.COMPARED
    SECTION: ClassVar[str] = ""

    @abstractmethod
    def check(self, key: str, given: Mapping[str, Any]) -> C:
        """Return what a claim of a study file says, checked.

        Args:
            key: Where the claim stands, for messages.
            given: The claim; it has all of ``KEYS``.

        Raises:
            StudyError: A value is not allowed.
        """

    @abstractmethod
    def parse(self, content: Mapping[str, Any]) -> C:
        """Return what a checked claim says."""

    @abstractmethod
    def compare(self, content: C, bound: float, evidence: Evidence) -> list[Comparison]:
        """Return the comparisons that a claim makes."""

    def selectors(self, content: C) -> Sequence[Selector]:
        """Return the configurations that a claim names one by one."""
        return ()

    def methods(self, content: C) -> Sequence[str]:
        """Return the methods all of whose configurations a claim is about."""
        return ()

    def needs(self, content: C, configurations: Sequence[Configuration]) -> Needs:
        """Return what a claim reads.

        Raises:
            StudyError: It names a configuration that is not among these.
        """
        chosen = [(selector, choose(configurations, selector)) for selector in self.selectors(content)]
        of_methods = [each for each in configurations if each.method in self.methods(content)]
        apart = [each for selector, each in chosen if selector.seeds]
        return Needs([*(each for _, each in chosen), *of_methods], apart, section=self.SECTION)

    def check_against(
        self, claim: Claim, study: Study, configurations: Sequence[Configuration], rates: Sequence[float]
    ) -> None:
        """Raise a StudyError where a claim names what its study does not compute.

        Args:
            claim: Of this kind.
            study: What is computed.
            configurations: Of the study.
            rates: Learning rates of its unrolled runs.
        """
        content: Any = claim.content
        for selector in self.selectors(content):
            try:
                choose(configurations, selector)
            except StudyError as error:
                raise StudyError(f"Claim {claim.id}: {error.message}", error.hint) from error
        missing = set(self.methods(content)) - {each.method for each in configurations}
        if missing:
            raise StudyError(f"Claim {claim.id}: the study has no {sorted(missing)[0]}.", "Add it to [methods].")


CLAIM_KINDS: dict[str, ClaimKind[Any]] = {}
"""The kinds of claims by name, in the order of their table; :mod:`tda_backend.studies.claims` fills it."""


@dataclass(frozen=True)
class Claim:
    """What a paper says.

    Attributes:
        id: Names it in its study.
        paper: Key of ``PAPERS``.
        place: Where the paper says it.
        statement: What it says.
        check: Name of its kind.
        bound: What the comparison must pass.
        content: What the kind compares.
        note: For people.
    """

    id: str
    paper: str
    place: str
    statement: str
    check: str
    bound: float
    content: Content
    note: str | None = None

    @property
    def kind(self) -> ClaimKind[Any]:
        """Its kind."""
        return CLAIM_KINDS[self.check]

    @classmethod
    def from_json(cls, claim: Mapping[str, Any]) -> Claim:
        """Return a claim that was checked."""
        common = {name: claim[name] for name in (*_TEXTS, "bound")}
        return cls(**common, content=CLAIM_KINDS[claim["check"]].parse(claim), note=claim.get("note"))

    def to_json(self) -> dict[str, Any]:
        """Return it as a study file has it, checked."""
        common = {name: getattr(self, name) for name in (*_TEXTS, "bound")}
        note = {} if self.note is None else {"note": self.note}
        return {**common, **note, **self.content.to_json()}

    def with_alpha(self, all_but_one: float) -> Claim:
        """Return the claim with α = 1 − 1/n as the number that it is in a study."""
        return replace(self, content=self.content.with_alpha(all_but_one))

    def selectors(self) -> Sequence[Selector]:
        """Return the configurations that it names one by one."""
        return self.kind.selectors(self.content)

    def methods(self) -> Sequence[str]:
        """Return the methods all of whose configurations it is about."""
        return self.kind.methods(self.content)

    def needs(self, configurations: Sequence[Configuration]) -> Needs:
        """Return what it reads."""
        return self.kind.needs(self.content, configurations)

    def compare(self, evidence: Evidence) -> list[Comparison]:
        """Return the comparisons that it makes."""
        return self.kind.compare(self.content, self.bound, evidence)


def check_claims(key: str, value: Any) -> list[dict[str, Any]]:
    """Return the claims of a study after checking their form.

    Raises:
        StudyError: A claim lacks a key, has an unknown one, or a value that is not allowed.
    """
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise StudyError(f"{key} is not a list of tables.", "Write each claim as [[claims]] with its keys below.")
    checked = [_check_claim(f"{key}[{number}]", item) for number, item in enumerate(value)]
    names = [claim.id for claim in checked]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise StudyError(f"{key} has the id {twice[0]!r} twice.", "Give every claim its own id.")
    return [claim.to_json() for claim in checked]


def with_alpha(claim: Mapping[str, Any], all_but_one: float) -> dict[str, Any]:
    """Return a checked claim with α = 1 − 1/n as the number that it is in a study."""
    return Claim.from_json(claim).with_alpha(all_but_one).to_json()


def _check_claim(key: str, claim: Mapping[str, Any]) -> Claim:
    own = [name for kind in CLAIM_KINDS.values() for name in kind.KEYS]
    allowed = (*_TEXTS, *dict.fromkeys(own), "bound", "note")
    unknown = sorted(set(claim) - set(allowed))
    if unknown:
        raise StudyError(f"Unknown key {key}.{unknown[0]}.", f"Allowed: {', '.join(allowed)}.")
    for name in _TEXTS:
        if not isinstance(claim.get(name), str) or not claim[name].strip():
            raise StudyError(f"{key}.{name} is missing or no text.", f"Every claim has {', '.join(_TEXTS)}.")
    _check_known(f"{key}.paper", claim["paper"], ", ".join(PAPERS), PAPERS)
    kinds = "; ".join(f"{name}: {kind.WORDS}" for name, kind in CLAIM_KINDS.items())
    _check_known(f"{key}.check", claim["check"], kinds, CLAIM_KINDS)
    kind = CLAIM_KINDS[claim["check"]]
    for name in kind.KEYS:
        if name not in claim:
            raise StudyError(f"{key} lacks {name}, which check {kind.NAME} needs.", kind.WORDS)
    bound = claim.get("bound", kind.DEFAULT_BOUND)
    if not isinstance(bound, Real) or isinstance(bound, bool) or not math.isfinite(float(bound)):
        raise StudyError(f"{key}.bound = {bound!r} is not allowed.", "Give a number.")
    texts = {name: claim[name].strip() for name in _TEXTS}
    note = str(claim["note"]) if "note" in claim else None
    return Claim(**texts, bound=float(bound), content=kind.check(key, claim), note=note)


def _check_known(key: str, value: str, words: str, known: Mapping[str, Any]) -> None:
    if value not in known:
        raise StudyError(f"{key} = {value!r} is not known.", f"Allowed: {words}.")
