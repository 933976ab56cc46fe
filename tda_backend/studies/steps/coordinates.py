"""The steps that make coordinates by passes over a model: dense ones, or one Kronecker basis per layer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from tda_backend.models.precision import Precision
from tda_backend.numerics.spectral.coordinates import Spectrum
from tda_backend.numerics.spectral.kronecker.spectrum import KroneckerSpectrum
from tda_backend.seeds import hashed_seed
from tda_backend.studies.config.configuration import Configuration, Parameters
from tda_backend.studies.contract.method import Method, method
from tda_backend.studies.pipeline.context import RunContext
from tda_backend.studies.pipeline.planning import Planning
from tda_backend.studies.pipeline.sizes import Sizes, doubles
from tda_backend.studies.pipeline.step import Cost, Step, needs, setting
from tda_backend.studies.pipeline.times import LEAST_SECONDS, backward, eigenvectors, product, projecting
from tda_backend.studies.steps.rounding import note_rounding
from tda_backend.studies.steps.source import FilterOf, SourceStep
from tda_backend.studies.steps.spectrum import DRAWN_FROM_GRAM, STRUCTURED, Draw, SpectralStep, draw_of, write_spectrum
from tda_backend.studies.store.artifact import Artifact
from tda_backend.studies.store.artifacts import ArtifactStore, ArtifactWriter


@dataclass(frozen=True, kw_only=True)
class Curvature(SpectralStep):
    """Dense coordinates of one checkpoint's curvature.

    Attributes:
        recipe: The method that makes them.
        epoch: Of the checkpoint.
        parameters: Its hyper-parameters but those of the filter.
        seed: Of its draws.
        draw: The projection, if any.
        method_version: Of the method's code, from 2 on.
        precision: Of passes that take gradients; ``None``: float32.
    """

    NAME: ClassVar[str] = "curvature"
    VERSION: ClassVar[int] = 1

    recipe: str
    epoch: int
    parameters: Parameters
    seed: int
    draw: Draw
    method_version: int | None = setting(None)
    precision: Precision | None = setting(None)
    examples: Step = needs()
    train: Step = needs()

    def settings(self) -> dict[str, Any]:
        """Return the settings, those of the draw among them."""
        settings = super().settings()
        return settings | settings.pop("draw")

    def run(self, context: RunContext, writer: ArtifactWriter) -> None:
        """Let the method make its coordinates, and store them."""
        context.memo.clear()
        maker = method(self.recipe)
        assert isinstance(maker, CoordinateMethod)
        note_rounding(context, writer, self, "train_loss")
        write_spectrum(writer, maker.coordinates(context, self))


@dataclass(frozen=True, kw_only=True)
class Kronecker(SourceStep):
    """Kronecker factors of one checkpoint's curvature, and all gradients rotated into their basis.

    Attributes:
        kind: The method that fits them.
        epoch: Of the checkpoint.
        parameters: Its hyper-parameters.
        seed: Of the labels that the true Fisher draws.
        method_version: Of the method's code, from 2 on.
        precision: Of passes that take gradients; ``None``: float32.
    """

    NAME: ClassVar[str] = "kronecker"
    VERSION: ClassVar[int] = 1

    kind: str
    epoch: int
    parameters: Parameters
    seed: int
    method_version: int | None = setting(None)
    precision: Precision | None = setting(None)
    examples: Step = needs()
    train: Step = needs()

    @classmethod
    def read(cls, store: ArtifactStore, keys: Sequence[str], filter_of: FilterOf | None = None) -> Any:
        """Return the spectrum of each training seed with its filter, its factors memory-mapped."""
        return [_kronecker_spectrum(store.open(key), filter_of) for key in keys]

    def run(self, context: RunContext, writer: ArtifactWriter) -> None:
        """Let the method fit its factors, and store them."""
        context.memo.clear()
        maker = method(self.kind)
        assert isinstance(maker, KroneckerMethod)
        note_rounding(context, writer, self, "train_loss")
        spectrum = maker.factors(context, self)
        for name, values in spectrum.to_arrays().items():
            writer.array(name, values)
        writer.array("eigenvalues", spectrum.eigenvalues)
        writer.facts["num_cut"] = int(spectrum.num_cut)


def _kronecker_spectrum(artifact: Artifact, filter_of: FilterOf | None) -> KroneckerSpectrum:
    """Return a stored spectrum with a filter (default: the damped inverse)."""
    spectrum = KroneckerSpectrum.from_arrays(artifact.arrays())
    if filter_of is None:
        return spectrum
    num_eigenvalues = len(spectrum.eigenvalues) + sum(layer.num_null for layer in spectrum.layers)
    return replace(spectrum, filter=filter_of(spectrum.num_cut, num_eigenvalues))


class CoordinateMethod(Method):
    """A method that makes dense coordinates by passes over the model."""

    RECIPE = "curvature"
    RANK = 2
    HAS_REGULARIZATION = True

    @abstractmethod
    def coordinates(self, context: RunContext, step: Curvature) -> Spectrum:
        """Return the coordinates of one training seed."""

    def source_gib(self, planning: Planning, configuration: Configuration) -> float:
        """Return what the coordinates of one training seed take."""
        return planning.sizes.coordinates(self.num_coordinates(planning, configuration))

    def num_coordinates(self, planning: Planning, configuration: Configuration) -> float:
        """Return how many coordinates an example has, at most."""
        return configuration.projection_dim or planning.sizes.num_parameters

    def making_gib(self, planning: Planning, configuration: Configuration) -> float:
        """Return what making them holds: in float64, twice where parts are joined, beside the curvature's matrix."""
        dim = self.num_coordinates(planning, configuration)
        sizes, rows = planning.sizes, planning.sizes.num_train + planning.sizes.num_others
        return max(4 * doubles(dim, dim), 2 * doubles(rows, dim) + doubles(dim, dim)) + sizes.factors

    def sources(self, planning: Planning, configuration: Configuration) -> tuple[Step, ...]:
        """Add the coordinates of every training seed."""
        return plan_coordinates(planning, configuration, self, self.name)

    def projection_kind(self, parameters: Parameters, kind: str) -> str:
        """Return how a configuration projects: what is not drawn from a Gram matrix is structured."""
        return structured(kind)


class KroneckerMethod(Method):
    """A method with one Kronecker basis per layer."""

    RECIPE = "kronecker"
    RANK = 1
    HAS_REGULARIZATION = True
    SLOW_PER_QUERY = True

    @abstractmethod
    def factors(self, context: RunContext, step: Kronecker) -> KroneckerSpectrum:
        """Return the spectrum of one training seed."""

    def source_gib(self, planning: Planning, configuration: Configuration) -> float:
        """Return what one training seed's gradients in the basis take: factors, or matrices where layers see places."""
        sizes = planning.sizes
        each = sizes.factor_numbers or sum(outputs * inputs for outputs, inputs in sizes.layers)
        bases = sum(doubles(outputs, outputs) + doubles(inputs, inputs) for outputs, inputs in sizes.layers)
        return sizes.numbers(sizes.num_train + sizes.num_others, each) + bases

    def sources(self, planning: Planning, configuration: Configuration) -> tuple[Step, ...]:
        """Add the factors of every training seed."""
        return tuple(self._source(planning, configuration, seed) for seed in range(len(planning.trained)))

    def _source(self, planning: Planning, configuration: Configuration, seed: int) -> Kronecker:
        stored = self.source_gib(planning, configuration)
        return planning.steps.add(
            Kronecker(
                kind=self.name,
                epoch=configuration.training_epoch,
                parameters=_of_coordinates(self, configuration),
                seed=hashed_seed("labels", planning.study.seed, seed),
                method_version=self.key_version,
                precision=planning.study.precision,
                examples=planning.examples,
                train=planning.trained[seed],
                configurations=planning.serves(configuration),
                seed_index=seed,
                label=f"factors {configuration.label}{planning.of_seed(seed)}",
                cost=Cost(_kronecker_seconds(planning.sizes), 1.5 * stored + planning.sizes.passing, stored_gib=stored),
            )
        )


def _kronecker_seconds(sizes: Sizes) -> float:
    """Return what bases and gradients in them take: three passes, a decomposition of each side, two products."""
    rows = sizes.num_train + sizes.num_others
    sides = sum(eigenvectors(sizes, outputs) + eigenvectors(sizes, inputs) for outputs, inputs in sizes.layers)
    turned = sum(product(sizes, rows, outputs + inputs, max(outputs, inputs)) for outputs, inputs in sizes.layers)
    return LEAST_SECONDS + 3 * backward(sizes, rows) + sides + turned


def _coordinates_seconds(sizes: Sizes, dim: float) -> float:
    """Return what dense coordinates take: three passes, their gradients, and the curvature with its eigenvectors."""
    rows = sizes.num_train + sizes.num_others
    curvature = eigenvectors(sizes, dim) + 2 * product(sizes, rows, dim, dim)
    return LEAST_SECONDS + 3 * backward(sizes, rows) + projecting(sizes, rows) + curvature


def _of_coordinates(spec: Method, configuration: Configuration) -> dict[str, Any]:
    """Return the hyper-parameters that coordinates depend on: all but those of the filter."""
    inside = {item.name for item in spec.hyperparameters if item.in_filter}
    return {name: value for name, value in configuration.parameters.items() if name not in inside}


def structured(kind: str) -> str:
    """Return the kind of projection of what is not drawn from a Gram matrix."""
    return kind if kind != DRAWN_FROM_GRAM else STRUCTURED


def plan_coordinates(
    planning: Planning, configuration: Configuration, spec: Method, recipe: str
) -> tuple[Curvature, ...]:
    """Add the coordinates of a configuration for every training seed.

    Args:
        planning: The plan in the making.
        configuration: Whose.
        spec: Its method; hyper-parameters of its filter need no new coordinates.
        recipe: The method that makes them.
    """
    parameters, maker = _of_coordinates(spec, configuration), method(recipe)
    assert isinstance(maker, CoordinateMethod)
    parameters.pop("projection", None)
    kind = configuration.parameters.get("projection", "")
    seconds = _coordinates_seconds(planning.sizes, maker.num_coordinates(planning, configuration))
    return tuple(
        planning.steps.add(
            Curvature(
                recipe=recipe,
                epoch=configuration.training_epoch,
                parameters=parameters,
                seed=hashed_seed(recipe, planning.study.seed, seed),
                draw=draw_of(planning, configuration, (seed,), kind),
                method_version=maker.key_version,
                precision=planning.study.precision,
                examples=planning.examples,
                train=trained,
                configurations=planning.serves(configuration),
                seed_index=seed,
                label=f"coordinates {configuration.label}{planning.of_seed(seed)}{planning.of_draw}",
                cost=Cost(
                    seconds,
                    maker.making_gib(planning, configuration) + planning.sizes.passing,
                    stored_gib=maker.source_gib(planning, configuration),
                ),
            )
        )
        for seed, trained in enumerate(planning.trained)
    )
