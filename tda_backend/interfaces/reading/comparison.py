"""Two configurations of a study against each other: paired LDS, agreement of their rankings, LDS by class, power.

What a study has evaluated is read from its artifacts; ranks at a λ that it has not evaluated, or of some of the models
of an ensemble alone, are computed anew from the stored coordinates, without the bootstrap.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tda_backend.errors import UsageError
from tda_backend.interfaces.reading.records.base import records
from tda_backend.interfaces.reading.records.configurations import ConfigurationRow
from tda_backend.interfaces.reading.records.curves import LdsPoint
from tda_backend.interfaces.reading.study import Study
from tda_backend.numerics.evaluation.bootstrap import ranks
from tda_backend.numerics.evaluation.by_class import lds_by_class
from tda_backend.numerics.evaluation.comparison import Comparison, compare_ranks, draws_from_ranks
from tda_backend.numerics.evaluation.lds import GroundTruth, lds_curve
from tda_backend.numerics.evaluation.power import PowerEstimate, subsets_needed_for_difference
from tda_backend.numerics.spectral.contraction import ScoreMatrix, scores
from tda_backend.studies.config.selector import Selector
from tda_backend.studies.steps.choice import Known, regularization_of
from tda_backend.studies.store import repository
from tda_backend.studies.store.artifacts import Artifact, ArtifactStore

TOPS = (5, 10, 20, 50, 100)


@dataclass(frozen=True)
class Side:
    """One of two configurations that are compared.

    Attributes:
        configuration_id: Which.
        regularization: λ, ``None`` for methods without one.
        models: Only the first so many training seeds; 0: all.
    """

    configuration_id: str
    regularization: float | None = None
    models: int = 0


@dataclass(frozen=True)
class ClassLds:
    """LDS of A and of B over the queries of one class, with 95 % intervals over subsets.

    Attributes:
        name: Of the class.
        num_queries: How many queries it has.
        a: LDS of A.
        a_low: Low end of its interval.
        a_high: High end.
        b: LDS of B.
        b_low: Low end of its interval.
        b_high: High end.
    """

    name: str
    num_queries: int
    a: float
    a_low: float
    a_high: float
    b: float
    b_low: float
    b_high: float


@dataclass(frozen=True)
class Compared:
    """A against B.

    Attributes:
        comparison: Paired difference of LDS with its intervals.
        power: How many subsets would give ± the half-width asked for.
        by_class: LDS of both by class of the query; none without classes.
        balanced: Class-balanced LDS of A and B.
        num_subsets: S.
    """

    comparison: Comparison
    power: PowerEstimate
    by_class: list[ClassLds]
    balanced: tuple[float, float]
    num_subsets: int


def evaluation(study: Study, configuration_id: str) -> Artifact | None:
    """Return the stored evaluation of a configuration, on all subsets; ``None`` while there is none."""
    rows = repository.query(
        study.workspace,
        """SELECT i.artifact FROM ingested i JOIN configurations c USING (study_id)
           WHERE study_id = ? AND configuration_id = ? AND i.label = 'evaluate ' || c.label""",
        [study.study_id, configuration_id],
    )
    return (
        ArtifactStore(study.workspace.artifacts, study.workspace.read_only).open(str(rows["artifact"].tolist()[0]))
        if len(rows)
        else None
    )


def predicted_ranks(study: Study, side: Side, alpha: float) -> np.ndarray:
    """Return twice the average rank of the predicted subset sums over subsets, ``[S, m]``: stored, or computed.

    Raises:
        UsageError: λ is missing, or given to a method without one.
    """
    artifact = None if side.models else evaluation(study, side.configuration_id)
    if artifact is not None and f"ranks_{alpha:g}.npy" in artifact.files:
        values = artifact.array(f"values_{alpha:g}")
        found = _place(values, side.regularization)
        if found is not None:
            return np.asarray(artifact.array(f"ranks_{alpha:g}")[found])
    seeds = list(range(side.models)) if side.models else None
    source = study.source(side.configuration_id, seeds)
    if isinstance(source, ScoreMatrix) != (side.regularization is None):
        raise UsageError(
            f"λ = {side.regularization} does not fit configuration {side.configuration_id}.",
            "Give λ to methods that have one, and to no others.",
        )
    curve = lds_curve(
        source,
        GroundTruth(study.subset_masks(alpha), study.subset_outputs(alpha)),
        None if side.regularization is None else [side.regularization],
        num_bootstrap=0,
        keep_ranks=True,
    )
    return np.asarray(curve.predicted_ranks)[0]


def _place(values: np.ndarray, wanted: float | None) -> int | None:
    if wanted is None:
        return 0 if np.isnan(values[0]) else None
    near = np.flatnonzero(np.isclose(values, wanted, rtol=1e-6, atol=0.0))
    return int(near[0]) if len(near) else None


def compare(study: Study, a: Side, b: Side, alpha: float | None = None, half_width: float = 0.01) -> Compared:
    """Compare the LDS of two configurations of one study, by the same draws of the same subsets.

    Args:
        study: Whose.
        a: A.
        b: B.
        alpha: Share of the training set in a subset; ``None``: the study's first.
        half_width: Wanted half-width of the interval of the difference.

    Raises:
        UsageError: Nothing was retrained yet, or λ does not fit.
    """
    share = study.alphas[0] if alpha is None else alpha
    target = study.subset_outputs(share)
    num, seed = study.num_bootstrap, study.bootstrap_seed
    first, second = (predicted_ranks(study, side, share) for side in (a, b))
    draws = draws_from_ranks(np.stack([first, second]), target, num, seed)
    classes, balanced = _by_class(study, first, second, target, num, seed)
    return Compared(
        compare_ranks(first, second, target, num_bootstrap=num, seed=seed),
        subsets_needed_for_difference(draws[:, 0], draws[:, 1], len(target), half_width=half_width),
        classes,
        balanced,
        len(target),
    )


def _by_class(
    study: Study, first: np.ndarray, second: np.ndarray, target: np.ndarray, num: int, seed: int
) -> tuple[list[ClassLds], tuple[float, float]]:
    labels = study.examples("queries")["label"]
    if not study.info.get("num_classes") or labels.isna().to_numpy().any():
        return [], (float("nan"), float("nan"))
    names = [*study.info["class_names"]]
    known = {str(name): place for place, name in enumerate(names)}
    codes = np.array([known.get(str(label), len(known)) for label in labels])
    one, two = (lds_by_class(ranked, target, codes, num_bootstrap=num, seed=seed) for ranked in (first, second))
    rows = [
        ClassLds(
            str(names[code]) if code < len(names) else "other",
            int((codes == code).sum()),
            *(float(part[place]) for each in (one, two) for part in (each.mean, each.ci_low, each.ci_high)),
        )
        for place, code in enumerate(one.classes)
    ]
    return rows, (one.balanced, two.balanced)


@dataclass(frozen=True)
class Overlap:
    """Share of the top examples of either sign that two rankings both name.

    Attributes:
        top: How many examples of each ranking.
        helpful: Share among those that help most, 0..1.
        harmful: Share among those that hurt most.
    """

    top: int
    helpful: float
    harmful: float


@dataclass(frozen=True)
class Agreement:
    """How alike two rankings of the training examples for one query are.

    Attributes:
        correlation: Spearman's, over all training examples; NaN where a side has equal scores only.
        overlap: How many of the top examples both name, for some lengths of the list.
    """

    correlation: float
    overlap: list[Overlap]


def agreement(study: Study, a: Side, b: Side, query: int, tops: Sequence[int] = TOPS) -> Agreement:
    """Return how far two configurations agree on who helps and who hurts one query."""
    rows = []
    for side in (a, b):
        source = study.source(side.configuration_id, list(range(side.models)) if side.models else None)
        rows.append(np.asarray(scores(source, side.regularization, query), dtype=np.float64).reshape(-1))
    centred = [ranks(row) for row in rows]
    defined = all((row != 0).any() for row in centred)
    order = [np.argsort(-row, kind="stable") for row in rows]
    kept = [top for top in tops if top <= len(rows[0])] or [len(rows[0])]
    overlap = [
        Overlap(
            top,
            len(set(order[0][:top]) & set(order[1][:top])) / top,
            len(set(order[0][-top:]) & set(order[1][-top:])) / top,
        )
        for top in kept
    ]
    correlation = float((centred[0] * centred[1]).sum()) if defined else float("nan")
    return Agreement(correlation, overlap)


def regularization_at(study: Study, row: ConfigurationRow, word: str, alpha: float | None = None) -> float | None:
    """Return the λ that a word means for a configuration: ``selected``, ``best``, ``zero`` or ``default``.

    Args:
        study: Whose.
        row: Its configuration.
        word: See :mod:`~tda_backend.studies.config.selector`.
        alpha: Share for ``best``.

    Raises:
        StudyError: ``best`` is asked for and nothing was retrained yet.
    """
    if not row.has_regularization:
        return None
    own = {name: value for name, value in json.loads(row.parameters).items() if name == "damping"}
    selector = Selector({"method": row.method, "regularization": word, **own})
    record = study.selection(row.configuration_id, alpha)
    curve = records(study.curve(row.configuration_id, alpha), LdsPoint)
    lds = [(point.regularization, point.mean) for point in curve if point.regularization is not None]
    return regularization_of(selector, Known(record.get("lambda_selected"), lds))
