"""The step that judges the rules for λ, epoch and dimension, and races all configurations over the retrainings.

Without ground truth there is nothing to judge; what the rules choose for epoch and dimension is stored all the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tda_backend.numerics.evaluation.racing import run_race
from tda_backend.numerics.evaluation.rules import EvaluatedCurve, RaceInputs, rule_outcomes
from tda_backend.seeds import hashed_seed
from tda_backend.studies.config.configuration import Configuration
from tda_backend.studies.pipeline.context import RunContext
from tda_backend.studies.pipeline.planning import Planning
from tda_backend.studies.pipeline.step import Cost, Step, about, needs
from tda_backend.studies.pipeline.times import LEAST_SECONDS
from tda_backend.studies.steps.train import Retrain, read_outputs
from tda_backend.studies.steps.tuning import has_choice, tuning_rows, validation_losses
from tda_backend.studies.store.artifact import Artifact
from tda_backend.studies.store.artifacts import ArtifactWriter
from tda_backend.studies.store.tables.rules import RACES, RULES, TUNING

TOLERANCE, CONFIDENCE = 0.01, 0.95


@dataclass(frozen=True, kw_only=True)
class Rules(Step):
    """What every rule chose in every configuration at one α, and how the race of all of them ended.

    Attributes:
        alpha: Of the ground truth.
        training_seed: Of the first training run: its model before training is the reference of the epoch rules.
        threshold: Of ξ̄.
        configurations: All of the study.
    """

    NAME: ClassVar[str] = "rules"
    VERSION: ClassVar[int] = 2
    TABLES = (RULES, TUNING, RACES)

    alpha: float
    training_seed: int
    threshold: float
    evaluations: Mapping[str, Step] = needs(role="evaluate {}", optional=True)
    examples: Step = needs()
    retrain: Sequence[Retrain] = needs(default=())
    train: Step = needs()
    configurations: Sequence[Configuration] = about(())

    def context(self) -> dict[str, Any]:
        """Return what a result of this step replaces, as the one of a run in which something was missing."""
        return {**super().context(), "replaces": {table.name: {"alpha": self.alpha} for table in self.TABLES}}

    def run(self, context: RunContext, writer: ArtifactWriter) -> None:
        """Judge and race: over the grids of all configurations and every method without λ, in the order of the subsets.

        Configurations that could not be evaluated take no part.
        """
        positions = context.positions(self.examples)
        there = [row for row in self.configurations if row.configuration_id in self.evaluations]
        losses = validation_losses(context, self.train, positions.validation, self.training_seed)
        if not self.retrain:
            writer.table("tuning", TUNING.rows(tuning_rows(there, None, losses, self.alpha)))
            return
        target = read_outputs(context.open_all(self.retrain), positions.queries)
        entrants = [self._entrant(name, context.open(step), target) for name, step in self.evaluations.items()]
        writer.table("rules", RULES.rows([row for entrant in entrants for row in entrant.outcomes]))
        at_selected = {each.configuration_id: each.at_selected for each in entrants if each.at_selected is not None}
        writer.table("tuning", TUNING.rows(tuning_rows(there, at_selected, losses, self.alpha)))
        writer.table("races", RACES.rows([self._race(entrants, target)]))

    def _entrant(self, identity: str, artifact: Artifact, target: np.ndarray) -> _Entrant:
        values, means, ranks = (artifact.array(f"{part}_{self.alpha:g}") for part in ("values", "means", "ranks"))
        has_rules = artifact.has("rules.parquet")
        kept = int(artifact.fact("num_grid")) + int(has_rules)
        regularizations = [None if np.isnan(value) else float(value) for value in values[:kept]]
        entrant = _Entrant(identity, regularizations, means[:kept].tolist(), ranks[:kept])
        if not has_rules:
            return entrant
        chosen = artifact.table("rules").to_pydict()
        outcomes = rule_outcomes(
            EvaluatedCurve(identity, values, means, len(target)),
            dict(zip(chosen["rule"], chosen["regularization"], strict=True)),
            RaceInputs(ranks, target, TOLERANCE, CONFIDENCE),
        )
        rows = [RULES.record(each, configuration_id=identity, alpha=self.alpha) for each in outcomes]
        if artifact.has(f"layers_{self.alpha:g}.npy"):
            lds = float(artifact.array(f"layers_{self.alpha:g}").item())
            best = max(outcome.lds for outcome in outcomes)  # of single λ: one λ per layer may have negative regret
            rows.append(
                {
                    "configuration_id": identity,
                    "alpha": self.alpha,
                    "rule": f"xi{self.threshold:g} per layer",
                    "lds": lds,
                    "regret": best - lds,
                    "num_retrainings": 0,
                }
            )
        return _Entrant(identity, regularizations, entrant.means, entrant.ranks, rows, float(means[kept - 1]))

    def _race(self, entrants: Sequence[_Entrant], target: np.ndarray) -> dict[str, Any]:
        """Return the row of ``races``."""
        ranks = np.concatenate([entrant.ranks for entrant in entrants])
        race = run_race(ranks, iter(target), tolerance=TOLERANCE, confidence=CONFIDENCE)
        names = [
            (entrant.configuration_id, value, mean)
            for entrant in entrants
            for value, mean in zip(entrant.regularizations, entrant.means, strict=True)
        ]
        identity, value, lds = names[race.winner]
        return {
            "alpha": self.alpha,
            "configuration_id": identity,
            "regularization": value,
            "lds": lds,
            "regret": max(mean for _, _, mean in names if np.isfinite(mean)) - lds,
            "num_candidates": len(names),
            "num_retrainings": race.num_retrainings,
            "num_subsets": len(target),
            "decided": race.decided,
            "sentence": race.sentence,
        }


@dataclass(frozen=True)
class _Entrant:
    """One configuration in the race.

    Attributes:
        configuration_id: Which.
        regularizations: λ of the grid and λ*, or one ``None`` without λ.
        means: LDS at each.
        ranks: uint16 ``[L, S, m]``.
        outcomes: Rows of ``rules``.
        at_selected: LDS at λ*; ``None`` without λ.
    """

    configuration_id: str
    regularizations: Sequence[float | None]
    means: Sequence[float]
    ranks: np.ndarray
    outcomes: Sequence[Mapping[str, Any]] = ()
    at_selected: float | None = None


def plan_rules(
    planning: Planning,
    configurations: Sequence[Configuration],
    evaluations: Mapping[str, Step],
    chunks: Mapping[float, Sequence[Retrain]],
    trained: Step,
) -> None:
    """Add the judgement of the rules at every α; none where there is no λ.

    Without ground truth the rules choose, and nothing judges them. A study that flips labels asks which labels are
    wrong, for which no rule was measured: there they choose nothing.
    """
    study = planning.study
    has_truth = bool(study.ground_truth.subsets)
    may_choose = study.data.flip_labels is None and has_choice(configurations)
    if not any(row.has_regularization for row in configurations) or not (has_truth or may_choose):
        return
    for alpha, steps in chunks.items():
        at = "" if len(chunks) == 1 else f" at α={alpha:g}"
        planning.steps.add(
            Rules(
                alpha=alpha,
                training_seed=hashed_seed("training", study.seed, 0),
                threshold=study.evaluation.threshold,
                evaluations=dict(evaluations),
                examples=planning.examples,
                retrain=tuple(steps),
                train=trained,
                configurations=tuple(configurations),
                label=f"judge the rules for λ{at}" if has_truth else f"choose epoch and projection{at}",
                cost=Cost(LEAST_SECONDS * (1 + len(configurations))),
            )
        )
