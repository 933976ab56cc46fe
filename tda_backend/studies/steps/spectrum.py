"""The step that decomposes one checkpoint's Gram matrix or projected features; every λ is a filter on its result."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from tda_backend.models.precision import Precision
from tda_backend.models.probe import Probe
from tda_backend.numerics.features.checkpoint_features import CheckpointFeatures, InnerProducts, gradient_requests
from tda_backend.numerics.features.dense import BUDGET_NUMBERS, project_gradients
from tda_backend.numerics.features.projection import Projection, gaussian_from_gram, nested, project_factors
from tda_backend.numerics.spectral.coordinates import Block, Spectrum
from tda_backend.numerics.spectral.filters.damped import DampedInverse
from tda_backend.numerics.spectral.leading import LeftOut
from tda_backend.seeds import hashed_seed
from tda_backend.studies.config.configuration import Configuration
from tda_backend.studies.contract.method import Method, method
from tda_backend.studies.pipeline.context import RunContext
from tda_backend.studies.pipeline.planning import Planning
from tda_backend.studies.pipeline.sizes import Held, Sizes
from tda_backend.studies.pipeline.step import Cost, Step, needs, setting
from tda_backend.studies.steps.features import Features, plan_features
from tda_backend.studies.steps.source import LEFT_OUT, FilterOf, SourceStep
from tda_backend.studies.steps.spectrum_size import (
    Projecting,
    Spectral,
    exact_memory,
    factored_memory,
    holds_gram,
    projected_memory,
    spectrum_seconds,
)
from tda_backend.studies.store.artifacts import ArtifactStore, ArtifactWriter

KEPT = "num_eigenvalues"
"""The hyper-parameter that says how many of the largest eigenvalues are kept; configurations that keep all lack it."""
DRAWN_FROM_GRAM = "gaussian"
"""The kind of projection that is drawn from the Gram matrix; all others take the gradients themselves."""
STRUCTURED = "sparse"
"""The kind of projection that takes its place where nothing is drawn from a Gram matrix."""


@dataclass(frozen=True)
class Draw:
    """A random projection of a step.

    Attributes:
        dim: k, or ``None``: unprojected.
        kind: How it is drawn.
        max_dim: k_max, of which k is a prefix.
        draw: Seed.
    """

    dim: int | None = None
    kind: str = DRAWN_FROM_GRAM
    max_dim: int = 0
    draw: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return it as steps store it."""
        if self.dim is None:
            return {"dim": None}
        return {"dim": self.dim, "kind": self.kind, "max_dim": self.max_dim, "draw": self.draw}

    @property
    def projection(self) -> Projection:
        """The projection to k_max."""
        return Projection(self.kind, self.max_dim, self.draw)  # type: ignore[arg-type]  # checked by the study's rules

    @property
    def whole(self) -> tuple[str, int, int]:
        """What the draw at k_max depends on, whose prefixes are those of smaller k."""
        return self.kind, self.max_dim, self.draw

    @property
    def needs_gram(self) -> bool:
        """Whether it takes the inner products of all gradients: the exact answer, and what is drawn from them."""
        return self.dim is None or self.kind == DRAWN_FROM_GRAM

    @property
    def inner_products(self) -> InnerProducts:
        """Which inner products of gradients a spectrum takes."""
        return InnerProducts.ALL if self.needs_gram else InnerProducts.NONE

    @property
    def words(self) -> str:
        """What labels call it."""
        return "unprojected" if self.dim is None else f"k={self.dim}"


def draw_of(planning: Planning, configuration: Configuration, place: Sequence[Any], kind: str = "") -> Draw:
    """Return the projection of a configuration.

    Args:
        planning: The study's projection settings.
        configuration: Its k and epoch.
        place: What the draw is hashed from, beside the epoch: training seed or model of an ensemble.
        kind: How it is drawn; empty: as the study says.
    """
    if configuration.projection_dim is None:
        return Draw()
    settings = planning.study.projection
    seed = hashed_seed("projection", settings.seed, *place, configuration.training_epoch)
    return Draw(configuration.projection_dim, kind or settings.kind, settings.max_dim, seed)


@dataclass(frozen=True, kw_only=True)
class SpectralStep(SourceStep):
    """A step whose result is a :class:`Spectrum`."""

    @classmethod
    def read(cls, store: ArtifactStore, keys: Sequence[str], filter_of: FilterOf | None = None) -> list[Spectrum]:
        """Return the coordinates of each training seed, memory-mapped."""
        return [read_spectrum(store, key, filter_of) for key in keys]


@dataclass(frozen=True, kw_only=True)
class SpectrumStep(SpectralStep):
    """The decomposition of one checkpoint's mean Gram, or of its projected features.

    Attributes:
        gradients: Whose gradients are decomposed: those of the loss or, with the margin identity, of the margin.
        draw: The projection.
        epoch: Of the checkpoint, where models without factors take their gradients again.
        method_version: Of the code of the method whose gradients these are, from 2 on.
        num_eigenvalues: How many of the largest are kept; ``None``: all.
        precision: Of passes that take gradients again; ``None``: float32.
        features: The checkpoint's.
        examples: Where gradients are taken again.
        train: The training run, where gradients are taken again.
    """

    NAME: ClassVar[str] = "spectrum"
    VERSION: ClassVar[int] = 2

    gradients: str
    draw: Draw
    epoch: int | None = setting(None)
    method_version: int | None = setting(None)
    num_eigenvalues: int | None = setting(None)
    precision: Precision | None = setting(None)
    features: Features = needs()
    examples: Step | None = needs(default=None)
    train: Step | None = needs(default=None)

    def settings(self) -> dict[str, Any]:
        """Return gradients and draw, and what else is needed."""
        given = {
            "epoch": self.epoch,
            "method_version": self.method_version,
            "num_eigenvalues": self.num_eigenvalues,
            "precision": self.precision,
        }
        more = {name: value for name, value in given.items() if value is not None}
        return {"method": self.gradients, **self.draw.to_json(), **more}

    def affinity(self) -> str:
        """Return the features' key: spectra of one checkpoint share its Gram matrix and draw."""
        return self.features.key

    def run(self, context: RunContext, writer: ArtifactWriter) -> None:
        """Decompose; Gram matrix and draw are shared through the memo, and freed with the last step that takes them."""
        memo = context.memo
        if memo.features_key != self.features.key:
            memo.clear()
            memo.features_key = self.features.key
            memo.features = self._features(context)
        owner = method(self.gradients)
        assert isinstance(owner, DecomposesGradients)
        later = [
            step for step in context.later if isinstance(step, SpectrumStep) and step.features.key == self.features.key
        ]
        needed = {step.draw.whole for step in later if step.draw.dim is not None}
        wants_more = any(step.draw.dim is None for step in later) or bool(needed - {self.draw.whole, *memo.projected})
        gram, projected, features = None, None, memo.features
        if self.draw.dim is None:
            if holds_gram(Sizes.of(context.study, context.facts), self.num_eigenvalues):
                gram = self._gram(context)
            else:
                features = self._gradients(context)
        else:
            projected = nested(self._projected(context, keep_gram=wants_more), self.draw.dim)
        memo.projected = {whole: values for whole, values in memo.projected.items() if whole in needed}
        if not wants_more:
            memo.free_gradients()
        assert features is not None
        spectrum = owner.decompose(
            features,
            gram=gram,
            projected=projected,
            overwrite=not wants_more,
            num_eigenvalues=self.num_eigenvalues,
        )
        write_spectrum(writer, spectrum)
        if not later:
            memo.clear()

    def _features(self, context: RunContext) -> CheckpointFeatures:
        return Features.read(context.open(self.features), context.home)

    def _gradients(self, context: RunContext) -> CheckpointFeatures:
        """Return the checkpoint's features with their gradients, read again where they were freed."""
        held = context.memo.features
        return held if held is not None and held.has_gradients else self._features(context)

    def _gram(self, context: RunContext) -> Tensor:
        memo = context.memo
        if memo.gram is None:
            features = self._gradients(context)
            memo.gram = features.stored_gram() if features.factors is None else features.full_gram()
        return memo.gram

    def _projected(self, context: RunContext, keep_gram: bool) -> Tensor:
        """Return the features at k_max; a Gaussian draw takes the Gram matrix, the other kinds project gradients."""
        memo, whole = context.memo, self.draw.whole
        if whole not in memo.projected:
            if self.draw.kind == DRAWN_FROM_GRAM:
                gram = self._gram(context)
                found = gaussian_from_gram(gram, self.draw.max_dim, self.draw.draw, overwrite=not keep_gram)
            elif (factors := self._gradients(context).factors) is not None:
                found = project_factors(factors, self.draw.projection)
            else:
                assert self.train is not None
                assert self.epoch is not None
                probe = context.probe(self, context.model(self.train, self.epoch))
                found = project_model(probe, self.draw.projection, context.budget_numbers)
            memo.projected[whole] = found
        return memo.projected[whole]


class DecomposesGradients(Method):
    """A method on the eigenvectors of a checkpoint's gradients."""

    def source_gib(self, planning: Planning, configuration: Configuration) -> float:
        """Return what the coordinates of one model take."""
        dim = configuration.projection_dim or planning.sizes.num_train
        return planning.sizes.coordinates(min(dim, _kept(configuration) or dim))

    @abstractmethod
    def decompose(
        self,
        features: CheckpointFeatures,
        *,
        gram: Tensor | None = None,
        projected: Tensor | None = None,
        overwrite: bool = False,
        num_eigenvalues: int | None = None,
    ) -> Spectrum:
        """Return the spectrum of its gradients, from their inner products (which may be overwritten) or projected.

        With ``num_eigenvalues`` the largest alone, from factors where neither is given.
        """


def plan_spectrum(
    planning: Planning,
    configuration: Configuration,
    trained: Step,
    place: Sequence[Any],
    gradients: tuple[str, str],
    of: str = "",
) -> SpectrumStep:
    """Add the spectrum of one training run for a configuration.

    Args:
        planning: The plan in the making.
        configuration: Its epoch and k, and how many eigenvalues are kept.
        trained: The training run.
        place: What its draw is hashed from; the last part is its place in the ensemble.
        gradients: Whose gradients are decomposed: key, and title for the label.
        of: Names the run in labels.
    """
    epoch, draw = configuration.training_epoch, draw_of(planning, configuration, place)
    features, kept = plan_features(planning, trained, epoch, of, draw.inner_products), _kept(configuration)
    again = not draw.needs_gram  # models without factors take their gradients again
    return planning.steps.add(
        SpectrumStep(
            gradients=gradients[0],
            draw=draw,
            epoch=epoch if again else None,
            method_version=method(gradients[0]).key_version,
            num_eigenvalues=kept,
            precision=planning.study.precision if again else None,
            features=features,
            examples=planning.examples if again else None,
            train=trained if again else None,
            configurations=planning.serves(configuration),
            seed_index=place[-1],
            label=f"spectrum {gradients[1]} · {draw.words}{_words(kept)} · epoch {epoch}{of}{planning.of_draw}",
            cost=_cost(planning, draw, features.key, kept),
        )
    )


def _kept(configuration: Configuration) -> int | None:
    """Return how many eigenvalues a configuration keeps; ``None``: all."""
    return configuration.parameters.get(KEPT)


def _words(kept: int | None) -> str:
    return "" if kept is None else f" · {kept} eigenvalues"


def _cost(planning: Planning, draw: Draw, features: str, kept: int | None) -> Cost:
    sizes, dim = planning.sizes, draw.dim
    takes_gram = holds_gram(sizes, kept) if dim is None else draw.needs_gram
    whole = str(draw.whole) if dim is not None else "gram" if takes_gram else "factors"
    is_first = planning.steps.is_first(features, whole)
    seconds = spectrum_seconds(sizes, Spectral(dim, kept, takes_gram, is_first))
    held, inner = _memory(planning, draw, kept, is_first), dim or sizes.num_train
    stored = sizes.coordinates(min(inner, kept or inner))
    return Cost(seconds, held.usual, saved_gib=held.saved, stored_gib=stored)


def _memory(planning: Planning, draw: Draw, kept: int | None, is_first: bool) -> Held:
    """Return what the spectrum of a draw holds; several methods or k at one checkpoint keep its Gram matrix."""
    study, sizes = planning.study, planning.sizes
    if draw.dim is not None:
        how = Projecting(draw.max_dim, study.projection.draws or 1, draw.needs_gram, is_first)
        return projected_memory(sizes, draw.dim, how, kept)
    if kept is not None and not holds_gram(sizes, kept):
        return factored_memory(sizes, kept)
    own = [settings["projection_dim"] for settings in study.methods.values() if "projection_dim" in settings]
    return exact_memory(sizes, keeps_gram=sum(map(len, own)) > 1, kept=kept)


def project_model(probe: Probe, projection: Projection, budget_numbers: int = BUDGET_NUMBERS) -> Tensor:
    """Project the gradients of a model that has no factors, block by block of so many numbers."""
    return project_gradients(probe, gradient_requests(probe.task), projection, budget_numbers=budget_numbers)


def write_spectrum(writer: ArtifactWriter, spectrum: Spectrum) -> None:
    """Store a spectrum as arrays that can be memory-mapped; its filter is the configuration's, not stored."""
    writer.array("eigenvalues", spectrum.eigenvalues)
    for name in ("train", "query", "validation"):
        writer.array(name, getattr(spectrum, name))
    for name in ("train_weights", "query_outside"):
        values = getattr(spectrum, name)
        if values is not None:
            writer.array(name, values)
    writer.facts["num_cut"] = int(spectrum.num_cut)
    if spectrum.left_out is not None:
        writer.facts[LEFT_OUT] = asdict(spectrum.left_out)
    writer.facts["blocks"] = [[block.name, block.size, block.scale] for block in spectrum.blocks]


def read_spectrum(store: ArtifactStore, key: str, filter_of: FilterOf | None = None) -> Spectrum:
    """Return a stored spectrum with a filter (default: the damped inverse); its coordinates are memory-mapped."""
    artifact = store.open(key)
    arrays: dict[str, Any] = {name: torch.from_numpy(values) for name, values in artifact.arrays().items()}
    num_cut, eigenvalues = int(artifact.fact("num_cut")), arrays.pop("eigenvalues")
    return Spectrum(
        eigenvalues=eigenvalues,
        num_cut=num_cut,
        left_out=None if (left := artifact.fact(LEFT_OUT, None)) is None else LeftOut(**left),
        filter=DampedInverse() if filter_of is None else filter_of(num_cut, num_cut + len(eigenvalues)),
        blocks=tuple(Block(str(n), int(size), float(scale)) for n, size, scale in artifact.fact("blocks", [])),
        **{"train_weights": None, **arrays},
    )
