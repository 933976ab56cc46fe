"""From spectral coordinates to scores, subset sums and self-influence, for any λ and without an n × m matrix.

A *source* of scores is a list of coordinates (``Spectrum`` or another class
with its interface), one per training seed, or a :class:`ScoreMatrix` for methods without λ. Ensembles: influence
functions average the scores over seeds; TRAK averages the unweighted scores and the weights Q_i = 1 − p_i
**separately** and then multiplies (TRAK, eq. 17; METHODS §2).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from tda_backend.blocks import spans
from tda_backend.errors import NumericalError, UsageError
from tda_backend.finite import all_finite
from tda_backend.models.probe import Group
from tda_backend.numerics.spectral.coordinates import Coordinates, Part, Rows, Spectrum
from tda_backend.numerics.spectral.filters.base import check_regularization
from tda_backend.numerics.spectral.kronecker.spectrum import KroneckerSpectrum
from tda_backend.numerics.spectral.kronecker.sums import kronecker_subset_sums

_ROWS = 1024
_EPSILON = torch.finfo(torch.float64).eps
_QUERIES = 128
"""Queries at once where the filter differs from query to query."""


@dataclass(frozen=True)
class ScoreMatrix:
    """Scores of a method without λ.

    Attributes:
        values: ``[m, n]`` = [query, train]; positive helps.
    """

    values: Tensor

    @property
    def num_train(self) -> int:
        return self.values.shape[1]

    @property
    def device(self) -> torch.device:
        return self.values.device

    def to(self, device: torch.device | str) -> ScoreMatrix:
        """Return the same scores on a device."""
        return ScoreMatrix(self.values.to(device))


Source: TypeAlias = Sequence[Coordinates] | ScoreMatrix


def on_device(source: Source, device: torch.device | str) -> Source:
    """Return a source whose numbers lie on a device, where all that is made of it is computed."""
    return source.to(device) if isinstance(source, ScoreMatrix) else [spectrum.to(device) for spectrum in source]


def device_of(source: Source) -> torch.device:
    """Return the device that a source lies on."""
    return source.device if isinstance(source, ScoreMatrix) else spectra_of(source)[0].device


def num_queries(source: Source) -> int:
    """Return m."""
    return source.values.shape[0] if isinstance(source, ScoreMatrix) else spectra_of(source)[0].num_queries


def num_train(source: Source) -> int:
    """Return n."""
    return source.num_train if isinstance(source, ScoreMatrix) else spectra_of(source)[0].num_train


def mean_weights(spectra: Sequence[Coordinates]) -> Tensor | None:
    """Return the example weights averaged over seeds, ``[n]`` float64, or ``None`` for methods without weights.

    Raises:
        UsageError: Some spectra carry weights and others do not.
    """
    weights = [spectrum.train_weights for spectrum in spectra]
    present = [weight for weight in weights if weight is not None]
    if not present:
        return None
    if len(present) != len(weights):
        raise UsageError("Spectra with and without train weights cannot be averaged.", "Give spectra of one method.")
    return torch.stack([weight.to(torch.float64) for weight in present]).mean(0)


def scores(source: Source, regularization: float | None, queries: int | Sequence[int] | None = None) -> np.ndarray:
    """Return scores at one λ: ``Q'·diag φ(σ;λ)·Tᵀ``, averaged over seeds; positive helps.

    Args:
        source: One spectrum per training seed, or a score matrix.
        regularization: λ ≥ 0 in units of the mean Gram; ``None`` for a score matrix.
        queries: ``None`` for all, one index, or several.

    Returns:
        ``[m, n]`` or ``[n]`` in the dtype of the coordinates (float32 unless the spectrum was built otherwise).

    Raises:
        UsageError: λ is missing, or a query index is out of range.
        NumericalError: λ is not allowed, or a score is not finite (naming λ).
    """
    one = isinstance(queries, (int, np.integer))
    values = score_rows(source, regularization, check_queries(source, queries)).cpu().numpy()
    return values[0] if one else values


def score_rows(source: Source, regularization: float | None, queries: Sequence[int] | None = None) -> Tensor:
    """Return :func:`scores` of some queries (or all), ``[m, n]`` on the source's device; raises the same."""
    rows = check_queries(source, queries)
    if isinstance(source, ScoreMatrix):
        result = source.values if rows is None else source.values[rows]
    else:
        result = _spectral_scores(spectra_of(source), needed(regularization), rows)
    if not all_finite(result):
        raise NumericalError(
            f"{int((~torch.isfinite(result)).sum())} scores are not finite at λ = {regularization}.",
            "Use a larger λ; small eigenvalues are amplified beyond float32.",
        )
    return result


def _filtered(
    spectrum: Coordinates, regularization: float, rows: Rows = None, group: Group = "query"
) -> Iterator[tuple[Part, Tensor]]:
    """Yield each part with its filtered query coordinates ``φ(σ; λ)∘q``, ``[m, r]`` float64.

    ``group="train"`` filters the training examples as if they were queries (self-influence).
    """
    parts = spectrum.parts()
    if spectrum.filter.depends_on_query and len(parts) > 1:
        raise UsageError(
            f"The filter {spectrum.filter.name} needs one basis for all parameters.", "Use a method without blocks."
        )
    for part in parts:
        query = part.rows(group, rows).to(torch.float64)
        outside = spectrum.query_outside if group == "query" else None
        outside = outside if rows is None or outside is None else outside[rows]
        weights = spectrum.filter.weights(part.eigenvalues, regularization, spectrum.num_train, query, outside)
        yield part, query * weights


def _spectral_scores(spectra: Sequence[Coordinates], regularization: float, rows: list[int] | None) -> Tensor:
    total: Tensor | None = None
    for spectrum in spectra:
        for part, filtered in _filtered(spectrum, regularization, rows):
            added = part.products((filtered / len(spectra)).to(spectrum.dtype))
            total = added if total is None else total.add_(added)
    assert total is not None
    weights = mean_weights(spectra)
    if weights is not None:
        total *= weights.to(total.dtype)
    return total


def block_scores(
    source: Source, regularization: float, queries: int | Sequence[int] | None = None
) -> dict[str, np.ndarray]:
    """Return scores by block (layer); they sum to :func:`scores`.

    Returns:
        Block name → ``[m, n]`` or ``[n]``.

    Raises:
        UsageError: The coordinates mix all layers, or the source is a score matrix.
    """
    one = isinstance(queries, (int, np.integer))
    rows = check_queries(source, queries)
    if isinstance(source, ScoreMatrix) or not all(spectrum.blocks for spectrum in spectra_of(source)):
        raise UsageError("These scores have no blocks.", "Choose a method with one basis per layer (LoGra, EK-FAC).")
    spectra = spectra_of(source)
    totals: dict[str, Tensor] = {}
    for spectrum in spectra:
        for part, filtered in _filtered(spectrum, regularization, rows):
            added = part.products((filtered / len(spectra)).to(spectrum.dtype))
            totals[part.block] = totals[part.block] + added if part.block in totals else added
    weights = mean_weights(spectra)
    result = {name: values if weights is None else values * weights.to(values.dtype) for name, values in totals.items()}
    for values in result.values():
        refuse_non_finite(values[None], [regularization])
    return {name: values.cpu().numpy()[0] if one else values.cpu().numpy() for name, values in result.items()}


def admissible(source: Source, regularizations: Sequence[float], queries: Sequence[int] | None = None) -> list[float]:
    """Return those λ at which the method's filter has a value, in the order given.

    LiSSA diverges for λ beyond its scaling, an explicit inverse does not exist at λ = 0 on a singular curvature, and
    conjugate gradients may break down there.

    Args:
        source: One spectrum per training seed.
        regularizations: Values of λ.
        queries: Queries whose scores are wanted, where the filter depends on them; ``None`` for all.

    Raises:
        NumericalError: There is none; the filter's own reason for the first.
    """
    ends = [
        (spectrum, part, part.eigenvalues[[int(part.eigenvalues.argmax()), int(part.eigenvalues.argmin())]])
        for spectrum in spectra_of(source)
        for part in spectrum.parts()
    ]
    allowed, reason = [], None
    for value in regularizations:
        try:
            for spectrum, part, extremes in ends:
                spectrum.filter.weights(extremes, value, spectrum.num_train, extremes.new_ones(1, 2))
                # No Rayleigh quotient is below λ: only here can a search direction be singular.
                if spectrum.filter.depends_on_query and value <= _EPSILON * float(extremes.max()):
                    _try_queries(spectrum, part, value, check_queries(source, queries))
        except NumericalError as error:
            reason = reason or error
        else:
            allowed.append(value)
    if reason is not None and not allowed:
        raise reason
    return allowed


def _try_queries(spectrum: Coordinates, part: Part, regularization: float, rows: list[int] | None) -> None:
    """Raise what a filter that depends on the query raises at one λ, by either of its routes."""
    every = torch.as_tensor(range(spectrum.num_queries) if rows is None else rows)
    for some in spans(len(every), _QUERIES):
        chosen = every[some]
        query = part.rows("query", chosen).to(torch.float64)
        outside = None if spectrum.query_outside is None else spectrum.query_outside[chosen]
        spectrum.filter.weights(part.eigenvalues, regularization, spectrum.num_train, query, outside)
        list(spectrum.filter.table(part.eigenvalues, [regularization], spectrum.num_train, query, outside))


def lacking_shares(source: Source, regularization: float) -> Tensor:
    """Return which share of their size scores of each query may lack where spectra are truncated, at most.

    See :meth:`LeftOut.error`; the largest over training seeds.

    Args:
        source: One spectrum per training seed.
        regularization: λ > 0.

    Returns:
        ``[m]`` float64; 0 where nothing is left out.
    """
    shares = torch.zeros(num_queries(source), dtype=torch.float64, device=device_of(source))
    for spectrum in spectra_of(source):
        if isinstance(spectrum, Spectrum) and spectrum.left_out is not None and spectrum.query_outside is not None:
            outside = spectrum.query_outside
            error = spectrum.left_out.error(spectrum.eigenvalues, spectrum.query, outside, regularization)
            shares = torch.maximum(shares, error)
    return shares


def subset_sums(source: Source, masks: Tensor | np.ndarray, regularizations: Sequence[float] | None) -> Tensor:
    """Return Σ_{i∈A_j} score(z', z_i) for every λ, subset and query: ``(M T) diag(φ) Q'ᵀ``; no n × m matrix is formed.

    Args:
        source: One spectrum per training seed, or a score matrix.
        masks: ``[S, n]`` bool (or weights), one row per subset.
        regularizations: L values of λ; ``None`` for a score matrix (then L = 1).

    Returns:
        ``[L, S, m]`` float64, on the source's device.

    Raises:
        UsageError: The masks do not have n columns, or λ is missing.
        NumericalError: λ is not allowed, or a sum is not finite (naming λ).
    """
    selected = torch.as_tensor(masks).to(device_of(source), torch.float64, copy=True)
    if selected.ndim != 2 or selected.shape[1] != num_train(source):
        raise UsageError(
            f"Subset masks have shape {tuple(selected.shape)}, but there are {num_train(source)} training examples.",
            "Masks are [S, n] bool.",
        )
    if isinstance(source, ScoreMatrix):
        sums = (selected @ source.values.to(torch.float64).T)[None]
        refuse_non_finite(sums, [None])
        return sums
    spectra = spectra_of(source)
    values = [check_regularization(value) for value in needed(regularizations)]
    weights = mean_weights(spectra)
    if weights is not None:
        selected *= weights
    sums = selected.new_zeros(len(values), selected.shape[0], num_queries(source))
    for spectrum in spectra:
        if isinstance(spectrum, KroneckerSpectrum) and not spectrum.filter.depends_on_query:
            sums += kronecker_subset_sums(spectrum, selected, values) / len(spectra)
            continue
        for part in spectrum.parts():
            summed = part.sums(selected) / len(spectra)
            everyone = part.rows("query").to(torch.float64)
            size = _QUERIES if spectrum.filter.depends_on_query else len(everyone)
            for rows in spans(len(everyone), size):
                query = everyone[rows]
                outside = None if spectrum.query_outside is None else spectrum.query_outside[rows]
                table = spectrum.filter.table(part.eigenvalues, values, spectrum.num_train, query, outside)
                for index, phi in enumerate(table):
                    if phi.ndim == 1:
                        sums[index, :, rows].addmm_(summed * phi, query.T)
                    else:
                        sums[index, :, rows] += summed @ (query * phi).T
    refuse_non_finite(sums, values)
    return sums


def self_influence(source: Source, regularizations: Sequence[float]) -> Tensor:
    """Return each training example's influence on its own loss at every λ: ``(T∘T)Φ``, times Q_i for TRAK; ≥ 0.

    Args:
        source: One spectrum per training seed.
        regularizations: L values of λ.

    Returns:
        ``[L, n]`` float64.

    Raises:
        UsageError: The source is a score matrix, which has no coordinates.
    """
    if isinstance(source, ScoreMatrix):
        raise UsageError("Self-influence needs spectral coordinates.", "Choose a method with a regularization.")
    spectra = spectra_of(source)
    values = [check_regularization(value) for value in regularizations]
    result = torch.zeros(len(values), spectra[0].num_train, dtype=torch.float64, device=spectra[0].device)
    for spectrum in spectra:
        for part in spectrum.parts():
            fixed = None
            if not spectrum.filter.depends_on_query:
                fixed = [spectrum.filter.weights(part.eigenvalues, v, spectrum.num_train) for v in values]
            for rows in spans(spectrum.num_train, _ROWS):
                block = part.rows("train", rows).to(torch.float64)
                if fixed is not None:
                    own = torch.stack(fixed) @ (block * block).T
                else:
                    table = spectrum.filter.table(part.eigenvalues, values, spectrum.num_train, block)
                    own = torch.stack([(phi * block * block).sum(1) for phi in table])
                result[:, rows] += own / len(spectra)
    weights = mean_weights(spectra)
    return result if weights is None else result * weights


def check_queries(source: Source, queries: int | Sequence[int] | None) -> list[int] | None:
    """Return the query indices as a list (of one, for one), refusing any outside 0…m−1 (negative ones too)."""
    if queries is None:
        return None
    total = num_queries(source)
    rows = [int(queries)] if isinstance(queries, (int, np.integer)) else [int(query) for query in queries]
    for row in rows:
        if not 0 <= row < total:
            raise UsageError(f"Query {row} is out of range.", f"There are {total} queries: 0 to {total - 1}.")
    return rows


def spectra_of(source: Source) -> Sequence[Coordinates]:
    """Return the coordinates of each training seed, refusing a score matrix."""
    if isinstance(source, ScoreMatrix) or not isinstance(source, Sequence) or not source:
        raise UsageError("Scores need a list of at least one spectrum.", "Give one spectrum per training seed.")
    return source


def needed(value):
    """Return λ, refusing that there is none."""
    if value is None:
        raise UsageError("This method needs a regularization λ.", "Give λ ≥ 0 in units of the mean Gram.")
    return value


def refuse_non_finite(values: Tensor, regularizations: Sequence[float | None]) -> None:
    """Raise naming the first λ (leading axis) at which a value is not finite."""
    for regularization, row in zip(regularizations, values, strict=True):
        if not all_finite(row):
            raise NumericalError(
                f"Scores are not finite at λ = {regularization}.",
                "Use a larger λ, or look for NaN in the gradients of this checkpoint.",
            )
