"""Method: one row of the method table, which study files, command line, forms, pages and the guide are made from.

A family of methods is a subclass in a file of its own (:mod:`tda_backend.studies.methods`); it owns what its methods
check, which configurations and steps they make, and their filter φ(σ; λ). Signs: scores are [query, train], positive
helps (METHODS §0).
"""

from __future__ import annotations

import difflib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from tda_backend.errors import StudyError, UsageError
from tda_backend.numerics.spectral.filters.base import Filter
from tda_backend.numerics.spectral.filters.damped import DampedInverse
from tda_backend.studies.config.configuration import Configuration, Parameters, Scorer
from tda_backend.studies.config.hyperparameter import NONE, Hyperparameter
from tda_backend.studies.config.study import Study
from tda_backend.studies.pipeline.facts import TaskFacts
from tda_backend.studies.pipeline.planning import Planning
from tda_backend.studies.pipeline.step import Step
from tda_backend.studies.store.artifacts import content_key
from tda_backend.types import Task

Curve = Literal["exact filter", "mean of a stochastic method", "measured run", "no λ"]
Settings = Mapping[str, Any]
"""A method's table in a resolved study: hyper-parameter → value, or values where it sweeps."""
EMPIRICAL_FISHER = "empirical-fisher"
UNPROJECTED_EPOCHS = "unprojected_epochs"
SOLID = "solid"


@dataclass(frozen=True)
class Style:
    """How figures draw a method. Twenty colours cannot be told apart: families have one, members differ in dash.

    Attributes:
        family: What methods have in common, in words.
        color: Of the family.
        dash: Of the line.
    """

    family: str
    color: str
    dash: str = SOLID


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """One row of the method table.

    Class attributes:
        RECIPE: What its scores are made of: ``spectrum`` (a checkpoint's Gram or projected features), ``curvature``
            (dense coordinates from passes over the model), ``kronecker`` (a Kronecker basis per layer) or ``scores``.
        RANK: Place of the recipe in the order of computing.
        HAS_REGULARIZATION: Whether its scores form a curve over λ.
        QUICK_KEEPS_EPOCHS: Whether a quick study has it at all of its epochs, not the last alone.

    Attributes:
        name: Key, as in study files and on the command line.
        title: How pages call it.
        curve: What its curve over λ is.
        features: Query features · train features.
        curvature: What is decomposed.
        reduction: How training seeds or checkpoints are put together.
        formula: The score, as plain text.
        hyperparameters: Beside λ.
        cost: Cost model: passes, products, memory.
        reference: Paper and section.
        style: How figures draw it.
        phi: Its filter.
        version: Bumped by hand when its code changes what it computes.
        needs: What a task must have: ``margin`` (the margin identity), ``outputs`` (outputs, output_loss and
            sample_targets), ``training`` (a training run of ours) or ``labels``.
        has_self_influence: Whether an example's influence on its own loss is defined.
        default_regularization: The λ that the method's paper or reference implementation uses where nothing is tuned
            (METHODS §8), in the units of its configurations; ``None``: it has no λ.
        short_title: Where there is little room; empty: the title.
        is_usual: Whether a new study begins with it.
        former: Names that addresses of earlier versions had for it, with the settings that they meant.
    """

    RECIPE: ClassVar[str] = "scores"
    RANK: ClassVar[int] = 3
    HAS_REGULARIZATION: ClassVar[bool] = False
    QUICK_KEEPS_EPOCHS: ClassVar[bool] = False
    SLOW_PER_QUERY: ClassVar[bool] = False
    """Whether the scores of a new query take seconds."""

    name: str
    title: str
    curve: Curve
    features: str
    curvature: str
    reduction: Literal["mean", "product of means", "weighted sum", "segment chain"]
    formula: str
    hyperparameters: tuple[Hyperparameter, ...]
    cost: str
    reference: str
    style: Style
    phi: type[Filter] = DampedInverse
    version: int = 1
    needs: tuple[str, ...] = ()
    has_self_influence: bool = True
    default_regularization: float | None = None
    short_title: str = ""
    is_usual: bool = False
    former: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = ()

    # --- what it says of itself

    @property
    def recipe(self) -> str:
        """What its scores are made of."""
        return self.RECIPE

    @property
    def has_regularization(self) -> bool:
        """Whether its scores form a curve over λ."""
        return self.HAS_REGULARIZATION

    @property
    def key_version(self) -> int | None:
        """What keys say of its version: nothing at first."""
        return None if self.version == 1 else self.version

    @property
    def filter_name(self) -> str:
        """Name of its filter."""
        return self.phi.NAME

    @property
    def follows_training(self) -> bool:
        """Whether it unrolls a training run."""
        return False

    @property
    def swept(self) -> tuple[Hyperparameter, ...]:
        """The hyper-parameters that tell configurations of one epoch and projection apart."""
        return tuple(h for h in self.hyperparameters if h.sweep and h.kind not in ("epochs", "dimension"))

    def hyperparameter(self, name: str) -> Hyperparameter | None:
        """Return one of its hyper-parameters, or ``None``."""
        return next((item for item in self.hyperparameters if item.name == name), None)

    def usual(self, name: str) -> Any:
        """Return the default of one hyper-parameter, ``None`` where it lacks that."""
        item = self.hyperparameter(name)
        return None if item is None else item.usual

    def usual_values(self, name: str) -> Sequence[Any]:
        """Return the default values of a hyper-parameter that sweeps, none where it lacks that."""
        item = self.hyperparameter(name)
        return () if item is None else item.default

    def values(self, settings: Settings, name: str) -> Sequence[Any]:
        """Return the values of a hyper-parameter that sweeps, its defaults where a study says nothing of it."""
        return settings[name] if name in settings else self.usual_values(name)

    def to_json(self) -> dict[str, Any]:
        """Return the row as ``tda methods --json`` prints it."""
        return {
            "name": self.name,
            "title": self.title,
            "recipe": self.recipe,
            "curve": self.curve,
            "features": self.features,
            "curvature": self.curvature,
            "reduction": self.reduction,
            "formula": self.formula,
            "cost": self.cost,
            "reference": self.reference,
            "filter_name": self.filter_name,
            "needs": self.needs,
            "has_self_influence": self.has_self_influence,
            "default_regularization": self.default_regularization,
            "has_regularization": self.has_regularization,
            "hyperparameters": [item.to_json() for item in self.hyperparameters],
        }

    # --- what it decides

    def filter(self, parameters: Parameters, num_cut: int = 0, num_eigenvalues: int = 0) -> Filter:
        """Return φ of a configuration; fields of the filter are hyper-parameters ``in_filter`` and both numbers below.

        Args:
            parameters: Its hyper-parameters.
            num_cut: Eigenvalues that are left out of the coordinates.
            num_eigenvalues: Of how many.
        """
        known = {item.name: parameters[item.name] for item in self.hyperparameters if item.in_filter}
        known |= {"num_cut": num_cut, "num_eigenvalues": num_eigenvalues}
        return self.phi(**{each.name: known[each.name] for each in fields(self.phi)})

    def default_for(self, parameters: Parameters) -> float | None:
        """Return the papers' λ in the units of a configuration; ``None`` where they give none."""
        return self.default_regularization

    def stores_self_influence(self, parameters: Parameters) -> bool:
        """Return whether a configuration's results tell each example's influence on its own loss."""
        return self.has_self_influence

    def is_preview(self, configuration: Configuration) -> bool:
        """Return whether a configuration may be shown before all subsets are retrained."""
        return False

    def checkpoint_epochs(self, configuration: Configuration, task: Task, num_train: int) -> tuple[int, ...]:
        """Return the epochs at which a configuration needs checkpoints, beside the study's."""
        return ()

    def source_gib(self, planning: Planning, configuration: Configuration) -> float:
        """Return what a configuration's scores, or the coordinates they come from, take in memory for one model."""
        return planning.sizes.numbers(planning.sizes.num_queries, planning.sizes.num_train)

    @abstractmethod
    def sources(self, planning: Planning, configuration: Configuration) -> tuple[Step, ...]:
        """Add the steps that a configuration's scores come from and return the last ones, one per training seed."""

    # --- what a study asks of it

    def check(self, settings: Settings, study: Study, facts: TaskFacts) -> None:
        """Raise a StudyError where it needs what the task does not have, or a setting does not fit the model."""
        lacks = _lacks(facts)
        for need in sorted(self.needed(settings)):
            if lacks[need]:
                raise StudyError(
                    f"Method {self.name} needs {lacks[need]}; the task {facts.task.name!r} has none.",
                    f"Leave [methods.{self.name}] out, or add it to the task.",
                )

    def needed(self, settings: Settings) -> set[str]:
        """Return what a task must have with these settings."""
        return set(self.needs)

    def configurations(self, settings: Settings, study: Study) -> Iterator[Configuration]:
        """Yield one configuration for every combination of what the study sweeps, but never of λ."""
        names = [item.name for item in self.swept]
        fixed = {h.name: settings[h.name] for h in self.hyperparameters if not h.sweep and h.kind != "epochs"}
        combinations: Any = itertools.product(
            self.epochs(settings, study),
            itertools.product(*(self.values(settings, name) for name in names)),
            settings.get("projection_dim", [NONE]),
        )
        for epoch, values, dim in combinations:
            unprojected = settings.get(UNPROJECTED_EPOCHS)
            if dim == NONE and unprojected is not None and epoch not in unprojected:
                continue
            parameters = self.parameters({**fixed, **dict(zip(names, values, strict=True))}, settings, epoch)
            if dim != NONE:
                parameters["projection"] = self.projection_kind(parameters, study.projection.kind)
            yield self._configuration(parameters, settings, study, epoch, None if dim == NONE else dim)

    def _configuration(
        self, parameters: dict[str, Any], settings: Settings, study: Study, epoch: int, dim: int | None
    ) -> Configuration:
        seeds = study.training.seeds
        title = self.title_of(parameters, seeds)
        identity = content_key(
            method=self.name,
            epoch=epoch,
            dim=dim,
            parameters=parameters,
            projection=study.projection.to_json() if dim else None,
            seeds=seeds,
        )[:12]
        label = self.label(title, epoch, dim, parameters, settings)
        num_sources = self.num_sources(parameters, seeds)
        return Configuration(
            self.name, title, epoch, dim, parameters, label, self.has_regularization, seeds, num_sources, identity
        )

    def epochs(self, settings: Settings, study: Study) -> Sequence[int]:
        """Return the epochs of its configurations."""
        return list(settings.get("epochs", [study.training.epochs[-1]]))

    def parameters(self, values: Mapping[str, Any], settings: Settings, epoch: int) -> dict[str, Any]:
        """Return what of some hyper-parameters' values tells a configuration apart."""
        return dict(values)

    def num_sources(self, parameters: Parameters, num_seeds: int) -> int:
        """Return over how many models a configuration is averaged."""
        return num_seeds

    def title_of(self, parameters: Parameters, num_seeds: int) -> str:
        """Return how a configuration's method is called."""
        return self.title

    def projection_kind(self, parameters: Parameters, kind: str) -> str:
        """Return how a configuration projects."""
        return kind

    def label(self, title: str, epoch: int, dim: int | None, parameters: Parameters, settings: Settings) -> str:
        """Return a configuration in words: what differs from the defaults, or is swept."""
        parts = [title]
        if self.hyperparameter("projection_dim") is not None:
            parts.append("unprojected" if dim is None else f"k={dim}")
        for item in self.swept:
            if item.name in parameters and item.is_labelled:
                several = len(self.values(settings, item.name)) > 1
                if several or item.is_always_labelled or parameters[item.name] != item.usual:
                    parts.append(item.words(parameters[item.name]))
        if self.hyperparameter("epochs") is not None:
            parts.append(f"epoch {epoch}")
        return " · ".join(parts)

    def beginning(self, epochs: Sequence[int], dims: Sequence[Any]) -> dict[str, Any]:
        """Return its table in a new study: every k at every checkpoint, the unprojected answer at the last alone.

        Args:
            epochs: Checkpoints, ascending.
            dims: k, or ``"none"``.
        """
        if self.hyperparameter(UNPROJECTED_EPOCHS) is None:
            return {"epochs": list(epochs)}
        return {"epochs": list(epochs), "projection_dim": list(dims), UNPROJECTED_EPOCHS: [epochs[-1]]}

    def quick(self, settings: Settings, epochs: Sequence[int], dim: int, num_parameters: int) -> dict[str, Any]:
        """Return its settings with small numbers: one saved epoch list, one k, short runs."""
        result = dict(settings)
        if self.hyperparameter("epochs") is not None:
            result["epochs"] = list(epochs) if self.QUICK_KEEPS_EPOCHS else [epochs[-1]]
        result |= self.quick_projection(result, dim, num_parameters)
        if self.hyperparameter(UNPROJECTED_EPOCHS) is not None:
            result[UNPROJECTED_EPOCHS] = list(epochs)
        for item in self.hyperparameters:
            if item.quick is not None and (item.name in result or not item.may_be_absent):
                value = result.get(item.name, item.default)
                small = [item.shortened(entry) for entry in value] if item.sweep else item.shortened(value)
                result[item.name] = list(dict.fromkeys(small)) if isinstance(small, list) else small
        return result

    def quick_projection(self, settings: Settings, dim: int, num_parameters: int) -> dict[str, Any]:
        """Return curvature and projection as a quick study has them."""
        return {}

    def shortened(self, settings: Settings) -> dict[str, Any]:
        """Return its settings with only what is retrained or repeated made small; the grids are kept."""
        result = dict(settings)
        for item in self.hyperparameters:
            if item.name in result:
                value = result[item.name]
                small: Any = [item.shortened(entry, True) for entry in value] if item.sweep else None
                result[item.name] = list(dict.fromkeys(small)) if small is not None else item.shortened(value, True)
        return result


def _lacks(facts: TaskFacts) -> dict[str, str | None]:
    """Return, for everything that a method may need, what a task lacks."""
    margin = "the margin identity (margin_identity on a classification task)"
    outputs = "outputs(model, batch), output_loss(outputs, batch) and sample_targets(outputs, generator)"
    return {
        "margin": None if facts.task.margin_identity else margin,
        "training": None if facts.trains else no_training(),
        "outputs": None if type(facts.task).outputs is not Task.outputs else outputs,
        "labels": None,
    }


def no_training() -> str:
    """Return what an already trained model lacks."""
    return "a training run of its own (the task is an already trained model)"


METHODS: dict[str, Method] = {}
"""The method table, in its order; :mod:`tda_backend.studies.methods` fills it."""


def method(name: str) -> Method:
    """Return a method's row.

    Raises:
        UsageError: The name is unknown; lists the allowed ones.
    """
    if name not in METHODS:
        guess = difflib.get_close_matches(name, METHODS, n=1)
        meant = f" Did you mean {guess[0]!r}?" if guess else ""
        raise UsageError(f"Unknown method {name!r}.{meant}", f"Allowed: {', '.join(METHODS)}.")
    return METHODS[name]


def scorer(configuration: Configuration) -> Scorer:
    """Return what decides a configuration's filter."""
    return Scorer(configuration.method, configuration.parameters, method(configuration.method).key_version)
