"""What pages compute from a study's scores at one λ: the points behind an LDS, influence by class, who is used."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from tda_backend.errors import UsageError
from tda_backend.evaluation.bootstrap import ranks
from tda_backend.methods import METHODS
from tda_backend.runs.study_reader import StudyReader
from tda_backend.spectral.contraction import num_queries, num_train, scores, self_influence, subset_sums

_QUERIES_AT_ONCE = 128


def subset_points(
    study: StudyReader, configuration_id: str, query: int, regularization: float | None, alpha: float
) -> pd.DataFrame:
    """Return the points behind one query's LDS, one per retrained subset.

    Returns:
        Columns ``subset``, ``predicted`` (sum of the scores of the examples in the subset, divided by n: the change of
        goodness that the scores foretell) and ``actual`` (goodness after retraining, mean over repeats).

    Raises:
        UsageError: Nothing has been retrained.
    """
    masks, outputs = study.subset_masks(alpha), study.subset_outputs(alpha)
    row = scores(study.source(configuration_id), regularization, query).astype(np.float64)
    return pd.DataFrame(
        {"subset": np.arange(len(masks)), "predicted": masks @ row / len(row), "actual": outputs[:, query]}
    )


def class_influence(
    study: StudyReader, configuration_id: str, regularization: float | None
) -> tuple[list[str], list[str], np.ndarray]:
    """Return the mean score by class: query labels, train labels, ``[query label, train label]``."""
    train = study.examples("train")["label"].astype(str).to_numpy()
    query = study.examples("queries")["label"].astype(str).to_numpy()
    train_names, query_names = in_order(study, train), in_order(study, query)
    masks = np.stack([train == name for name in train_names]).astype(np.float64)
    values = None if regularization is None else [regularization]
    sums = subset_sums(study.source(configuration_id), masks, values)[0].numpy()  # [train classes, m]
    means = sums / masks.sum(1)[:, None]
    return query_names, train_names, np.stack([means[:, query == name].mean(1) for name in query_names])


def in_order(study: StudyReader, labels: np.ndarray) -> list[str]:
    """Return the labels that occur, in the order of the task's class names."""
    present = set(labels.tolist())
    known = [str(name) for name in study.info["class_names"]]
    return [name for name in known if name in present] + sorted(present - set(known))


@dataclass(frozen=True)
class Usage:
    """How much each training example is used over all queries, at one λ.

    Attributes:
        num_top: Of how many queries it is among the ``top`` examples with the largest absolute score, int ``[n]``.
        share: Its share of all absolute scores, mean over queries, times n: 1 is average, ``[n]``.
        top: That number.
    """

    num_top: np.ndarray
    share: np.ndarray
    top: int


def usage(study: StudyReader, configuration_id: str, regularization: float | None, top: int = 20) -> Usage:
    """Return how often each training example is among those that matter most for a query."""
    source = study.source(configuration_id)
    count, total = num_train(source), num_queries(source)
    top = min(top, count)
    num_top, share = np.zeros(count, dtype=np.int64), np.zeros(count)
    for start in range(0, total, _QUERIES_AT_ONCE):
        rows = list(range(start, min(start + _QUERIES_AT_ONCE, total)))
        block = torch.from_numpy(np.abs(scores(source, regularization, rows)).astype(np.float64))
        sums = block.sum(1, keepdim=True)
        share += (block / sums.where(sums > 0, 1.0)).sum(0).numpy()
        num_top += np.bincount(block.topk(top, dim=1).indices.flatten().numpy(), minlength=count)
    return Usage(num_top, share * count / total, top)


def scores_of_example(
    study: StudyReader, configuration_id: str, position: int, regularization: float | None
) -> np.ndarray:
    """Return one training example's score for every query, ``[m]``: whom it helps and whom it hurts."""
    only = np.zeros((1, study.num_train))
    only[0, position] = 1.0
    values = None if regularization is None else [regularization]
    return subset_sums(study.source(configuration_id), only, values)[0, 0].numpy()


def spearman(predicted: np.ndarray, actual: np.ndarray) -> float:
    """Return the rank correlation of two rows, NaN where one is constant."""
    left, right = ranks(predicted[:, None])[:, 0], ranks(actual[:, None])[:, 0]
    return float(left @ right) if left.any() and right.any() else float("nan")


def own_influence(study: StudyReader, configuration_id: str, regularization: float | None) -> np.ndarray | None:
    """Return every training example's influence on its own loss, ``[n]``; ``None`` where the method has none."""
    row = study.configurations().set_index("configuration_id").loc[configuration_id]
    if not METHODS[str(row["method"])].has_self_influence:
        return None
    if regularization is not None:
        return self_influence(study.source(configuration_id), [regularization])[0].numpy()
    try:
        return study.stored_self_influence(configuration_id)
    except UsageError:  # computed without it: the study did not ask for n more queries
        return None
