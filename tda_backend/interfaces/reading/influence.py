"""What pages compute from a study's scores at one λ: the points behind an LDS, influence by class, who is used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from tda_backend.errors import NumericalError, UsageError
from tda_backend.interfaces.reading.reader import StudyReader
from tda_backend.interfaces.reading.records.base import records
from tda_backend.interfaces.reading.records.configurations import ConfigurationRow
from tda_backend.interfaces.reading.records.examples import Example
from tda_backend.numerics.evaluation.bootstrap import ranks
from tda_backend.numerics.spectral.contraction import (
    ScoreMatrix,
    Source,
    check_queries,
    num_queries,
    num_train,
    scores,
    self_influence,
    subset_sums,
)
from tda_backend.numerics.spectral.filters.damped import damped_inverse
from tda_backend.numerics.spectral.kronecker.scores import kronecker_scores
from tda_backend.numerics.spectral.kronecker.spectrum import KroneckerSpectrum
from tda_backend.numerics.trajectory.source.walk import response_filter
from tda_backend.studies.methods import METHODS

_QUERIES_AT_ONCE = 128
ROUNDING = 1e-14
"""Eigenvalues below this share of the largest are rounding of the eigendecomposition."""


@dataclass(frozen=True)
class SubsetPoints:
    """The points behind one query's LDS, one for each retrained subset.

    Attributes:
        predicted: Sum of the scores of the examples in the subset, divided by n: the change of goodness that the
            scores foretell, ``[S]``.
        actual: Goodness after retraining, mean over repeats, ``[S]``.
    """

    predicted: np.ndarray
    actual: np.ndarray

    @property
    def lds(self) -> float:
        """Rank correlation of both; NaN where one is constant."""
        return spearman(self.predicted, self.actual)


def subset_points(
    study: StudyReader, configuration_id: str, query: int, regularization: float | None, alpha: float
) -> SubsetPoints:
    """Return the points behind one query's LDS.

    Raises:
        UsageError: Nothing has been retrained.
    """
    masks, outputs = study.subset_masks(alpha), study.subset_outputs(alpha)
    row = scores(study.source(configuration_id), regularization, query).astype(np.float64)
    return SubsetPoints(masks @ row / len(row), outputs[:, query])


@dataclass(frozen=True)
class ClassInfluence:
    """Mean score of the training examples of one class for the queries of another.

    Attributes:
        queries: Classes of the queries.
        train: Classes of the training examples.
        means: ``[query class, train class]``.
    """

    queries: list[str]
    train: list[str]
    means: np.ndarray

    @property
    def worst(self) -> tuple[str, str]:
        """The training class that harms most, and the query class that it harms."""
        row, column = np.unravel_index(int(self.means.argmin()), self.means.shape)
        return self.train[column], self.queries[row]


def class_influence(study: StudyReader, configuration_id: str, regularization: float | None) -> ClassInfluence:
    """Return the mean score by class of training example and query."""
    train, query = (
        np.array([str(example.label) for example in records(study.examples(split), Example)])
        for split in ("train", "queries")
    )
    train_names, query_names = in_order(study, train), in_order(study, query)
    masks = np.stack([train == name for name in train_names]).astype(np.float64)
    values = None if regularization is None else [regularization]
    sums = subset_sums(study.source(configuration_id), masks, values)[0].numpy()  # [train classes, m]
    means = sums / masks.sum(1)[:, None]
    by_class = np.stack([means[:, query == name].mean(1) for name in query_names])
    return ClassInfluence(query_names, train_names, by_class)


def in_order(study: StudyReader, labels: np.ndarray) -> list[str]:
    """Return the labels that occur, in the order of the task's class names."""
    present = set(labels.tolist())
    known = [str(name) for name in study.info["class_names"]]
    return [name for name in known if name in present] + sorted(present - set(known))


@dataclass(frozen=True)
class FilterShape:
    """A method's filter over the eigenvalues, for a figure.

    Attributes:
        sigma: ``[p]`` eigenvalues σ, evenly spaced in log σ over the spectrum; none where nothing can be drawn.
        weights: ``[p]`` φ(σ; λ), the engine's own; as long as ``sigma``.
        formula: φ in one line.
        remark: One or two sentences on what the filter does there, or why there is nothing to draw.
    """

    sigma: np.ndarray
    weights: np.ndarray
    formula: str
    remark: str


def filter_shape(
    study: StudyReader, configuration_id: str, regularization: float, num_points: int = 160
) -> FilterShape | None:
    """Return φ(σ; λ) of a configuration over the range of its eigenvalues.

    Nothing is drawn for a filter that differs from query to query, nor where the method has no scores at this λ.

    Args:
        study: Whose.
        configuration_id: Which configuration (its first training seed).
        regularization: λ ≥ 0.
        num_points: p.

    Returns:
        ``None`` for methods without λ and for spectra without a positive eigenvalue.
    """
    source, eigenvalues = study.source(configuration_id), study.eigenvalues(configuration_id)
    positive = eigenvalues[eigenvalues > eigenvalues.max(initial=0.0) * ROUNDING]
    if isinstance(source, ScoreMatrix) or not len(positive):
        return None
    phi = source[0].filter
    remark = phi.remark(regularization, strong=int((eigenvalues > regularization).sum()), total=len(eigenvalues))
    nothing = FilterShape(np.empty(0), np.empty(0), phi.formula, remark)
    if phi.depends_on_query:
        return nothing
    sigma = np.geomspace(positive.min(), positive.max(), num_points)
    try:
        weights = phi.weights(torch.from_numpy(sigma), regularization, study.num_train).numpy()
    except NumericalError as error:
        return replace(nothing, remark=error.message)
    return replace(nothing, sigma=sigma, weights=weights)


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
    known = {row.configuration_id: row for row in records(study.configurations(), ConfigurationRow)}
    if not METHODS[known[configuration_id].method].has_self_influence:
        return None
    if regularization is not None:
        return self_influence(study.source(configuration_id), [regularization])[0].numpy()
    try:
        return study.stored_self_influence(configuration_id)
    except UsageError:  # computed without it: the study did not ask for n more queries
        return None


def score_table(
    source: Source, regularizations: Sequence[float], queries: int | Sequence[int] | None = None
) -> np.ndarray:
    """Return scores at L values of λ, ``[L, m, n]``, or ``[L, n]`` for one query; positive helps.

    Kronecker coordinates compress the λ axis (``kronecker.scores``), to a relative error of
    1e-6; all others are contracted once a λ.
    """
    spectra = [] if isinstance(source, ScoreMatrix) else [*source]
    kronecker = [spectrum for spectrum in spectra if isinstance(spectrum, KroneckerSpectrum)]
    if not kronecker or len(kronecker) < len(spectra):
        return np.stack([scores(source, value, queries) for value in regularizations])
    rows = check_queries(source, queries)
    tables = [kronecker_scores(spectrum, regularizations, rows) for spectrum in kronecker]
    result = (sum(tables[1:], tables[0]) / len(tables)).numpy()
    return result[:, 0] if isinstance(queries, int | np.integer) else result


def source_filter_shapes(products: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return SOURCE's filter and the damped inverse with λ = 1/c, both divided by c, at values of cσ.

    F(σ)/c = (1 − e^{−cσ})/(cσ) and (1/c)/(σ + 1/c) = 1/(cσ + 1): in units of 1/c no run has a shape of its own
    (SOURCE, arXiv 2405.12186, figure 3).

    Args:
        products: cσ > 0, ``[r]``.
    """
    values = torch.from_numpy(np.asarray(products, dtype=np.float64))
    return response_filter(values, 1.0).numpy(), damped_inverse(values, 1.0, 1).numpy()
