"""Two configurations of a study against each other: paired LDS, agreement of their rankings, LDS by class, power.

What a study has evaluated is read from its artifacts; ranks at a λ that it has not evaluated, or of some of the models
of an ensemble alone, are computed anew from the stored coordinates, without the bootstrap.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from tda_backend.errors import UsageError
from tda_backend.evaluation.bootstrap import ranks
from tda_backend.evaluation.by_class import LDSByClass, lds_by_class
from tda_backend.evaluation.comparison import Comparison, compare_ranks, draws_from_ranks
from tda_backend.evaluation.lds import lds_curve
from tda_backend.evaluation.power import PowerEstimate, subsets_needed_for_difference
from tda_backend.runs.api import Study
from tda_backend.runs.evaluate_step import bootstrap_seed
from tda_backend.runs.selectors import regularization_of
from tda_backend.spectral.contraction import ScoreMatrix, scores
from tda_backend.store import repository
from tda_backend.store.artifacts import Artifact, ArtifactStore

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
class Compared:
    """A against B.

    Attributes:
        comparison: Paired difference of LDS with its intervals.
        power: How many subsets would give ± the half-width asked for.
        by_class: Class name, queries, LDS with interval of A and of B (``a, a_low, a_high, b, …``); no rows without
            classes.
        balanced: Class-balanced LDS of A and B.
        num_subsets: S.
    """

    comparison: Comparison
    power: PowerEstimate
    by_class: pd.DataFrame
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
    return ArtifactStore(study.workspace.artifacts).open(str(rows["artifact"].tolist()[0])) if len(rows) else None


def predicted_ranks(study: Study, side: Side, alpha: float) -> np.ndarray:
    """Return twice the average rank of the predicted subset sums over subsets, ``[S, m]``: stored, or computed.

    Raises:
        UsageError: λ is missing, or given to a method without one.
    """
    artifact = None if side.models else evaluation(study, side.configuration_id)
    if artifact is not None and f"ranks_{alpha:g}.npy" in artifact.manifest["files"]:
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
        source, study.subset_masks(alpha), study.subset_outputs(alpha),
        None if side.regularization is None else [side.regularization], num_bootstrap=0, keep_ranks=True,
    )  # fmt: skip
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
    num, seed = int(study.config["evaluation"]["bootstrap"]), bootstrap_seed(study.config["seed"])
    first, second = (predicted_ranks(study, side, share) for side in (a, b))
    draws = draws_from_ranks(np.stack([first, second]), target, num, seed)
    classes, balanced = _by_class(study, first, second, target, num, seed)
    return Compared(
        compare_ranks(first, second, target, num_bootstrap=num, seed=seed),
        subsets_needed_for_difference(draws[:, 0], draws[:, 1], len(target), half_width=half_width),
        classes, balanced, len(target),
    )  # fmt: skip


def _by_class(
    study: Study, first: np.ndarray, second: np.ndarray, target: np.ndarray, num: int, seed: int
) -> tuple[pd.DataFrame, tuple[float, float]]:
    columns = ["class", "queries", "a", "a_low", "a_high", "b", "b_low", "b_high"]
    labels = study.examples("queries")["label"]
    if not study.info.get("num_classes") or labels.isna().to_numpy().any():
        return pd.DataFrame(columns=columns), (float("nan"), float("nan"))
    names = [*study.info["class_names"]]
    known = {str(name): place for place, name in enumerate(names)}
    codes = np.array([known.get(str(label), len(known)) for label in labels])
    found: list[LDSByClass] = [
        lds_by_class(ranked, target, codes, num_bootstrap=num, seed=seed) for ranked in (first, second)
    ]
    frame = pd.DataFrame({
        "class": [str(names[code]) if code < len(names) else "other" for code in found[0].classes],
        "queries": [int((codes == code).sum()) for code in found[0].classes],
        **{f"{side}{end}": getattr(each, name) for side, each in zip("ab", found, strict=True)
           for end, name in (("", "mean"), ("_low", "ci_low"), ("_high", "ci_high"))},
    })  # fmt: skip
    return pd.DataFrame(frame, columns=columns), (found[0].balanced, found[1].balanced)


@dataclass(frozen=True)
class Agreement:
    """How alike two rankings of the training examples for one query are.

    Attributes:
        correlation: Spearman's, over all training examples; NaN where a side has equal scores only.
        overlap: top, helpful, harmful: share of the top examples of either sign that both name.
        top_a: Training positions that help most by A, most helpful first.
        top_b: The same by B.
    """

    correlation: float
    overlap: pd.DataFrame
    top_a: list[int]
    top_b: list[int]


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
    overlap = pd.DataFrame({
        "top": kept,
        "helpful": [len(set(order[0][:top]) & set(order[1][:top])) / top for top in kept],
        "harmful": [len(set(order[0][-top:]) & set(order[1][-top:])) / top for top in kept],
    })  # fmt: skip
    correlation = float((centred[0] * centred[1]).sum()) if defined else float("nan")
    most = max(kept)
    return Agreement(correlation, overlap, order[0][:most].tolist(), order[1][:most].tolist())


def regularization_at(study: Study, row: Mapping[str, Any], word: str, alpha: float | None = None) -> float | None:
    """Return the λ that a word means for a configuration: ``selected``, ``best``, ``zero`` or ``default``.

    Args:
        study: Whose.
        row: Its configuration (``configuration_id``, ``method``, ``has_regularization``, ``parameters`` as JSON).
        word: See :mod:`~tda_backend.runs.selectors`.
        alpha: Share for ``best``.

    Raises:
        StudyError: ``best`` is asked for and nothing was retrained yet.
    """
    if not row["has_regularization"]:
        return None
    own = {name: value for name, value in json.loads(row["parameters"]).items() if name == "damping"}
    selector = {"method": row["method"], "regularization": word, **own}
    record = study.selection(row["configuration_id"], alpha)
    curve: Any = study.curve(row["configuration_id"], alpha).to_dict("records")
    return regularization_of(selector, record or None, curve)
