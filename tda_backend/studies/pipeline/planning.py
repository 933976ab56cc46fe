"""What steps and methods are planned with: the study, the task's facts, and the steps there are so far."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tda_backend.models.measuring.machine import SERVER
from tda_backend.numerics.features.checkpoint_features import InnerProducts
from tda_backend.studies.config.configuration import Configuration
from tda_backend.studies.config.study import Study
from tda_backend.studies.pipeline.facts import TaskFacts
from tda_backend.studies.pipeline.plan import Steps
from tda_backend.studies.pipeline.sizes import Sizes
from tda_backend.studies.pipeline.step import Step

USUAL_VECTORS = 6000
"""Gradients of a checkpoint in the study that costs were measured on."""
RETRAINING_SHARE = 0.6
"""Share of a training run's time that a retraining takes: several processes work at once."""


@dataclass(frozen=True)
class Planning:
    """A plan in the making.

    Attributes:
        study: What is computed.
        facts: The task's.
        steps: So far.
        examples: The step that draws which examples take part.
        trained: The training run of each seed.
        model_seconds: Estimated seconds of one training run on all examples.
        draw: Which of the projections that judge a configuration is planned; 0: the one that pages show.
        asked: By checkpoint, (key of the training run, epoch), which inner products of gradients all configurations
            ask for together; ``None``: unknown yet, each gets what it asks for.
    """

    study: Study
    facts: TaskFacts
    steps: Steps
    examples: Step
    trained: Sequence[Step]
    model_seconds: float
    draw: int = 0
    asked: Mapping[tuple[str, int], InnerProducts] | None = None

    def inner_products(self, run: str, epoch: int, asked: InnerProducts) -> InnerProducts:
        """Return which inner products of gradients are taken at a checkpoint.

        Args:
            run: Key of the training run.
            epoch: Of the checkpoint.
            asked: What the configuration that is planned asks for.
        """
        return asked if self.asked is None else self.asked[run, epoch]

    def drawing(self, number: int) -> Planning:
        """Return the planning of another projection of the same configurations."""
        study = replace(self.study, projection=self.study.projection.drawn(number))
        return replace(self, study=study, draw=number)

    @property
    def of_draw(self) -> str:
        """How labels name a projection: not at all where it is the one that pages show."""
        return f" draw {self.draw + 1}" if self.draw else ""

    def serves(self, configuration: Configuration) -> tuple[str, ...]:
        """Return the ids of the configurations whose scores a source gives: none for a draw that only judges."""
        return () if self.draw else (configuration.configuration_id,)

    @property
    def size(self) -> float:
        """Gradients of a checkpoint, in units of those that costs were measured on."""
        return self.study.data.num_vectors / USUAL_VECTORS

    def here(self, seconds: float) -> float:
        """Return what takes so long on the server that constants were measured on, on the machine of this plan."""
        return seconds * SERVER.double / self.facts.pace.machine.double

    @property
    def sizes(self) -> Sizes:
        """What the arrays of the study are made of."""
        return Sizes.of(self.study, self.facts)

    @property
    def retraining_seconds(self) -> float:
        """Estimated seconds of one retraining on all examples."""
        return self.model_seconds * RETRAINING_SHARE

    def of_seed(self, seed: int) -> str:
        """Return how labels name a training seed: not at all where there is one."""
        return f" seed {seed}" if len(self.trained) > 1 else ""


@dataclass(frozen=True)
class Planned:
    """A configuration with its steps.

    Attributes:
        configuration: Which.
        sources: What its scores come from, one per training seed (or model of an ensemble).
        evaluation: How it is judged.
    """

    configuration: Configuration
    sources: tuple[Step, ...]
    evaluation: Step


class FinalStep(Step):
    """A kind of step that follows from a study's configurations, and that no other step reads: it plans itself."""

    @classmethod
    @abstractmethod
    def plan(cls, planning: Planning, configurations: Sequence[Planned]) -> None:
        """Add the steps of this kind that the study needs, if any.

        Args:
            planning: The plan in the making.
            configurations: Of the study, with their steps, in the order of the method table.
        """
