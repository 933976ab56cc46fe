"""TracIn: a sum of gradient products over the checkpoints of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from tda_backend.numerics.attribution.tracin import tracin_scores, tracin_self_influence
from tda_backend.numerics.features.checkpoint_features import InnerProducts
from tda_backend.numerics.features.projection import gaussian_from_gram, nested, project_factors
from tda_backend.numerics.spectral.filters.base import Filter
from tda_backend.numerics.spectral.filters.identity import Identity
from tda_backend.seeds import hashed_seed
from tda_backend.studies.config.configuration import Configuration, Parameters
from tda_backend.studies.config.hyperparameter import Hyperparameter
from tda_backend.studies.config.study import Study
from tda_backend.studies.contract.method import Settings, Style
from tda_backend.studies.methods.checks import check_projection
from tda_backend.studies.methods.hyperparameters import (
    ALONG_THE_RUN,
    DASHES,
    EPOCHS,
    GREEN,
    INFLUENCE,
    PROJECTION,
)
from tda_backend.studies.pipeline.context import RunContext
from tda_backend.studies.pipeline.facts import TaskFacts
from tda_backend.studies.pipeline.planning import Planning
from tda_backend.studies.pipeline.sizes import doubles
from tda_backend.studies.pipeline.step import Step
from tda_backend.studies.steps.features import Features, plan_features
from tda_backend.studies.steps.scores import Scored, ScoreMethod, Scores
from tda_backend.studies.steps.spectrum import DRAWN_FROM_GRAM, Draw, draw_of, project_model
from tda_backend.studies.steps.spectrum_size import Projecting, projected_memory


@dataclass(frozen=True, kw_only=True)
class TracIn(ScoreMethod):
    """A sum of gradient products over checkpoints."""

    QUICK_KEEPS_EPOCHS: ClassVar[bool] = True

    phi: type[Filter] = Identity

    def epochs(self, settings: Settings, study: Study) -> Sequence[int]:
        """Return the epochs at which a sum ends: one configuration sums over those before."""
        return list(settings.get(MAXIMUM_EPOCHS.name) or settings[EPOCHS.name][-1:])

    def parameters(self, values: Parameters, settings: Settings, epoch: int) -> dict[str, Any]:
        """Return the normalisation and the epochs that are summed over."""
        summed = [each for each in settings[EPOCHS.name] if each <= epoch][-settings[LATEST.name] :]
        return {NORMALIZATION.name: values[NORMALIZATION.name], EPOCHS.name: summed}

    def label(self, title: str, epoch: int, dim: int | None, parameters: Parameters, settings: Settings) -> str:
        """Return a configuration in words."""
        parts = [title, "normalised" if parameters[NORMALIZATION.name] else "plain"]
        parts += [] if dim is None else [f"k={dim}"]
        return " · ".join([*parts, f"{len(parameters[EPOCHS.name])} checkpoints to epoch {epoch}"])

    def check(self, settings: Settings, study: Study, facts: TaskFacts) -> None:
        """Raise a StudyError where task or model do not fit."""
        super().check(settings, study, facts)
        check_projection(self.name, settings, study, facts)

    def more(self, planning: Planning, configuration: Configuration, seed: int) -> dict[str, Any]:
        """Return the projection."""
        return draw_of(planning, configuration, (seed,)).to_json()

    def num_features(self, configuration: Configuration) -> int:
        """Return the number of checkpoints."""
        return len(configuration.value(EPOCHS))

    def making_gib(self, planning: Planning, configuration: Configuration) -> float:
        """Return what scoring holds; with a projection, projected features of all checkpoints and the making of one."""
        draw, study = draw_of(planning, configuration, ()), planning.study
        if draw.dim is None:
            return super().making_gib(planning, configuration)
        sizes, number = planning.sizes, self.num_features(configuration)
        read = number * (sizes.factors or (sizes.gram if draw.needs_gram else 0.0))
        kept = number * sizes.numbers(sizes.num_vectors, draw.dim)
        one = projected_memory(sizes, draw.dim, Projecting(study.projection.max_dim, 1, draw.needs_gram)).usual
        return read + max(kept + one - sizes.factors, kept + 4 * doubles(sizes.num_queries, sizes.num_train))

    def feature_steps(self, planning: Planning, configuration: Configuration, seed: int) -> Sequence[Step]:
        """Add the features of every checkpoint."""
        of, trained = planning.of_seed(seed), planning.trained[seed]
        draw = draw_of(planning, configuration, (seed,))
        asked = InnerProducts.QUERIES if draw.dim is None else draw.inner_products
        return tuple(plan_features(planning, trained, epoch, of, asked) for epoch in configuration.value(EPOCHS))

    def score(self, context: RunContext, step: Scores) -> Scored:
        """Return −Σ_c η_c φ'_c · ∇ℓ(z_i; θ_c), projected where the study asks for it."""
        rates = context.open(step.train).fact("learning_rates")
        features = [Features.read(context.open(each), context.home) for each in step.features]
        epochs, draw = step.value(EPOCHS), Draw(**step.more)
        projected = None
        if draw.dim is not None:
            pairs = zip(epochs, features, strict=True)
            projected = [self._projected(context, step, draw, *pair) for pair in pairs]
        chosen = [float(rates[str(epoch)]) for epoch in epochs]
        arguments = (features, chosen, step.value(NORMALIZATION), projected)
        return tracin_scores(*arguments), tracin_self_influence(*arguments)

    def _projected(self, context: RunContext, step: Scores, draw: Draw, epoch: int, features: Any) -> Tensor:
        """Return one checkpoint's projected features; every checkpoint has its own draw."""
        own = Draw(draw.dim, draw.kind, draw.max_dim, hashed_seed(self.name, draw.draw, epoch))
        if own.kind == DRAWN_FROM_GRAM:
            wide = gaussian_from_gram(features.full_gram(), own.max_dim, own.draw, overwrite=True)
        elif features.factors is not None:
            wide = project_factors(features.factors, own.projection)
        else:
            probe = context.probe(step, context.model(step.train, epoch))
            wide = project_model(probe, own.projection, context.budget_numbers)
        assert own.dim is not None
        return nested(wide, own.dim)


NORMALIZATION = Hyperparameter("normalization", "flag", "divide both gradients by their norm", (False,), (False, True))
MAXIMUM_EPOCHS = Hyperparameter(
    "maximum_epochs", "epochs", "epochs at which the sum ends; default: the last", sweep=False
)
LATEST = Hyperparameter("num_checkpoints", "whole", "the last so many of the epochs", 10, sweep=False)
TRACIN = TracIn(
    name="tracin",
    title="TracIn",
    curve="no λ",
    features=INFLUENCE,
    curvature="none",
    reduction="weighted sum",
    formula="−Σ_c η_c φ'_c · ∇ℓ(z_i; θ_c)",
    hyperparameters=(
        EPOCHS,
        NORMALIZATION,
        LATEST,
        MAXIMUM_EPOCHS,
        PROJECTION,
    ),
    cost="one gradient pass per checkpoint; m·n·(d_in+d_out) products",
    reference="arXiv 2002.08484, eq. 1; 2505.24261, app. A",
    style=Style(ALONG_THE_RUN, GREEN, DASHES[0]),
    is_usual=True,
    former=(("tracin-normalization", ((NORMALIZATION.name, "true"),)),),
)
