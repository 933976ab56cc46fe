"""A study, whole: a task, which examples take part, a grid of hyper-parameters, ground truth and seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from tda_backend.models.precision import FULL, Precision
from tda_backend.numerics.features.projection import PROJECTION_KINDS
from tda_backend.seeds import hashed_seed
from tda_backend.studies.config.counterfactual import LeaveOneOut, Removal
from tda_backend.studies.config.gradients import Gradients
from tda_backend.studies.config.section import Section, setting
from tda_backend.studies.config.trajectory import LookAhead, Unrolling
from tda_backend.studies.config.values import (
    MOST_DIMENSIONS,
    MOST_EXAMPLES,
    MOST_SEEDS,
    many,
    one_of,
    real,
    share,
    whole,
)


@dataclass(frozen=True, kw_only=True)
class Data(Section):
    """How many examples of the task take part.

    Attributes:
        train: n, attributed to.
        validation: For ξ; disjoint from the queries.
        queries: m, explained.
        flip_labels: Share of the training rows that get another class before anything is trained.
    """

    NAME: ClassVar[str] = "data"

    train: int = setting(whole(2, MOST_EXAMPLES), 5000)
    validation: int = setting(whole(1, MOST_EXAMPLES), 500)
    queries: int = setting(whole(1, MOST_EXAMPLES), 500)
    flip_labels: float | None = setting(real(0.0, 1.0), None)

    @property
    def num_vectors(self) -> int:
        """Gradients of a checkpoint: train, validation and queries."""
        return self.train + self.validation + self.queries


@dataclass(frozen=True, kw_only=True)
class Training(Section):
    """The attributed models.

    Attributes:
        epochs: Saved checkpoints, ascending: where features may be taken.
        seeds: Training runs.
    """

    NAME: ClassVar[str] = "training"

    epochs: Sequence[int] = setting(many(whole(1, 10**6), allow_one=True))
    seeds: int = setting(whole(1, MOST_SEEDS), 1)


@dataclass(frozen=True, kw_only=True)
class GroundTruth(Section):
    """The retrained subsets that LDS is measured against.

    Attributes:
        subsets: S for each α, the most of them where there is ``until``; 0: no retraining, no LDS.
        alphas: Shares of the training rows.
        repeats: Models of each subset.
        until: Half-width of an LDS's 95 % interval; retraining stops once no interval at the λ that its configuration
            chooses is wider. ``None``: at S.
    """

    NAME: ClassVar[str] = "ground_truth"

    subsets: int = setting(whole(0, 100_000), 50)
    alphas: Sequence[float] = setting(many(share, allow_one=True), [0.5])
    repeats: int = setting(whole(1, MOST_SEEDS), 1)
    until: float | None = setting(real(0.0, 1.0), None)


@dataclass(frozen=True, kw_only=True)
class ProjectionSettings(Section):
    """Random projection of gradients.

    Attributes:
        kind: How it is drawn.
        max_dim: k_max: smaller k are prefixes of it.
        seed: Of the draw.
        draws: How many projections of each projected configuration are drawn and judged; ``None``: one.
    """

    NAME: ClassVar[str] = "projection"

    kind: str = setting(one_of(*PROJECTION_KINDS), "gaussian")
    max_dim: int = setting(whole(1, MOST_DIMENSIONS))
    seed: int = setting(whole(0, 2**63 - 1), 0)
    draws: int | None = setting(whole(1, MOST_SEEDS), None)

    def drawn(self, number: int) -> ProjectionSettings:
        """Return the settings of one of the draws; number 0 is what there is without others."""
        return replace(self, draws=None, seed=hashed_seed("projection draw", self.seed, number)) if number else self


@dataclass(frozen=True, kw_only=True)
class RegularizationGrid(Section):
    """The λ grid, in units of the mean Gram, or of each configuration's spectrum.

    Attributes:
        include_zero: Whether λ = 0 is on it.
        low: Smallest λ > 0.
        high: Largest λ.
        count: How many from low to high, equally spaced in ln λ.
        relative: Whether low and high are in units of the power of ten nearest to a configuration's largest eigenvalue
            σ_max, as in a study that says nothing about λ; ``None``: they are λ itself.
    """

    NAME: ClassVar[str] = "regularization"

    include_zero: bool = setting(one_of(True, False), True)
    low: float = setting(real(0.0, np.inf), 1e-7)
    high: float = setting(real(0.0, np.inf), 10.0)
    count: int = setting(whole(2, 10_000), 32)
    relative: bool | None = setting(one_of(True, False), None)

    @classmethod
    def table(cls, written: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return the section with its defaults; ``None``: a study that says nothing about λ has a relative grid."""
        return {**cls.defaults(), **({"count": 33, "relative": True} if written is None else written)}

    @property
    def values(self) -> list[float]:
        """The λ of the grid, ascending, in its own unit."""
        exponents = np.linspace(math.log10(self.low), math.log10(self.high), self.count).tolist()
        # Powers one by one: NumPy's differ in the last bit from processor to processor, and keys with them.
        return ([0.0] if self.include_zero else []) + [10.0**exponent for exponent in exponents]


@dataclass(frozen=True, kw_only=True)
class Evaluation(Section):
    """How configurations are judged.

    Attributes:
        bootstrap: Draws of every interval.
        threshold: ξ̄ at which λ* is taken.
        quantiles: Of the spectrum, the baselines of λ*.
        top: Examples of each side that are stored for every query.
    """

    NAME: ClassVar[str] = "evaluation"

    bootstrap: int = setting(whole(1, 100_000), 1000)
    threshold: float = setting(real(0.0, 1.0), 0.5)
    quantiles: Sequence[float] = setting(many(real(0.0, 1.0), allow_one=True), [0.1, 0.3, 0.5, 0.7, 0.9])
    top: int = setting(whole(1, MOST_EXAMPLES), 100)


@dataclass(frozen=True, kw_only=True)
class QuickLimits(Section):
    """Largest numbers of examples in the quick size of a costly task; never part of what identifies a study."""

    NAME: ClassVar[str] = "quick"

    train: int | None = setting(whole(2), None)
    validation: int | None = setting(whole(1), None)
    queries: int | None = setting(whole(1), None)
    removed: int | None = setting(whole(3), None)


REQUIRED: tuple[type[Section], ...] = (Data, Training, GroundTruth, ProjectionSettings, RegularizationGrid, Evaluation)
"""Sections that every study has."""
OPTIONAL: tuple[type[Section], ...] = (Gradients, Removal, LeaveOneOut, Unrolling, LookAhead)
"""Sections that a study has where its file has them."""


@dataclass(frozen=True)
class Study:
    """A resolved study: every value checked, every default filled in.

    Attributes:
        name: A name means the newest study of that name.
        task: How to load the task.
        seed: All draws are hashed from it.
        methods: Method → its settings by hyper-parameter, in the order of the method table.
        claims: What papers say that the study tests, as its file states it; ``None``: it tests nothing.
    """

    name: str
    task: str
    seed: int
    data: Data
    training: Training
    ground_truth: GroundTruth
    projection: ProjectionSettings
    regularization: RegularizationGrid
    methods: Mapping[str, Mapping[str, Any]]
    evaluation: Evaluation
    gradients: Gradients | None = None
    removal: Removal | None = None
    loo: LeaveOneOut | None = None
    trajectory: Unrolling | None = None
    lookahead: LookAhead | None = None
    claims: Sequence[Mapping[str, Any]] | None = None

    @property
    def regularizations(self) -> list[float]:
        """The λ grid, ascending, in its own unit."""
        return self.regularization.values

    @property
    def precision(self) -> Precision | None:
        """In which gradients are passed, where that is less than float32."""
        return None if self.gradients is None or self.gradients.precision == FULL else self.gradients.precision

    def to_json(self) -> dict[str, Any]:
        """Return the study as its record holds it: the same study gives the same content, and the same id."""
        content: dict[str, Any] = {"name": self.name, "task": self.task, "seed": self.seed}
        content |= {each.NAME: getattr(self, each.NAME).to_json() for each in REQUIRED}
        content["methods"] = {name: dict(settings) for name, settings in self.methods.items()}
        there = {each.NAME: getattr(self, each.NAME) for each in OPTIONAL}
        content |= {name: section.to_json() for name, section in there.items() if section is not None}
        return content if self.claims is None else {**content, "claims": [dict(claim) for claim in self.claims]}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Study:
        """Return the study of a resolved content, as :meth:`to_json` gives it."""
        named: Mapping[str, Any] = {each.NAME: each for each in (*REQUIRED, *OPTIONAL)}
        return cls(**{key: named[key].from_json(value) if key in named else value for key, value in content.items()})
