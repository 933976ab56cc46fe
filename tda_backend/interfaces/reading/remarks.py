"""What a study's numbers leave out or cannot know, a sentence each, for wherever the numbers stand."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import numpy as np

from tda_backend.interfaces.reading.records.base import records
from tda_backend.interfaces.reading.records.configurations import ConfigurationRow
from tda_backend.interfaces.reading.records.grouping import grouped
from tda_backend.interfaces.reading.rounding import gradients_rounded
from tda_backend.interfaces.reading.study import Study
from tda_backend.interfaces.reading.truncation import directions_left_out
from tda_backend.numerics.evaluation.stopping import widest_half_width
from tda_backend.studies.store import repository
from tda_backend.studies.store.tables.evaluation import LDS

_LEAVES_OUT = "leave-out"
_NAMED = 4
_UNLIKELY = 100


def remarks(study: Study) -> list[str]:
    """Return what the numbers of a study leave out or cannot know: rows, parameters, subsets, digits, draws."""
    rows = records(study.configurations(), ConfigurationRow)
    found = [_rows_left_out(study), *_parameters_left_out(study, rows), _stopping(study), *_repeated_subsets(study)]
    found += [gradients_rounded(study), directions_left_out(study)]
    return [sentence for sentence in [*found, _draws(rows, study.resolved.projection.draws or 1)] if sentence]


def beyond_grid(study: Study, configuration_id: str, regularization: float | None) -> str:
    """Return that a λ lies outside the grid on which a configuration was evaluated, with that grid; else nothing.

    Args:
        study: The study.
        configuration_id: Of a configuration; one that was not evaluated has no grid.
        regularization: λ; 0 and ``None`` lie on every grid.
    """
    frame = study.indicator_curve(configuration_id)
    frame = frame if len(frame) else study.curve(configuration_id)
    grid = frame.loc[~frame["is_selected"].astype(bool) & (frame["regularization"] > 0), "regularization"]
    low, high = float(grid.min()), float(grid.max())  # NaN where there is none
    selected = frame.loc[frame["is_selected"].astype(bool), "regularization"]
    if regularization is not None and bool(np.isclose(selected.astype(float), regularization, rtol=1e-5, atol=0).any()):
        return ""  # LDS and ξ are stored there; that λ* lies beyond its grid is one of its warnings
    if regularization is None or regularization <= 0 or not (regularization < low or regularization > high):
        return ""
    return (
        f"λ = {regularization:.4g} lies outside the grid, {low:.4g} to {high:.4g}: scores there are exact, but LDS and "
        "ξ were computed on the grid and at λ* alone."
    )


def _rows_left_out(study: Study) -> str:
    """Return how many training rows take part where not all do; nothing of studies that were computed before."""
    total = study.info.get("num_rows")
    if total is None or total <= study.num_train:
        return ""
    return f"{_count(study.num_train)} of the task's {_count(total)} training rows take part."


def _parameters_left_out(study: Study, rows: Sequence[ConfigurationRow]) -> list[str]:
    """Return which methods attribute through some of the parameters alone."""
    untracked = study.info.get("untracked") or []
    partial = [row for row in rows if json.loads(row.parameters).get("untracked") == _LEAVES_OUT]
    if not untracked or not partial:
        return []
    share, names = sum(size for _, size in untracked), [name for name, _ in untracked]
    named = ", ".join(names[:_NAMED]) + (" …" if len(names) > _NAMED else "")
    return [
        f"{title} leaves out {_count(share)} of {_count(study.info['num_parameters'])} parameters: {named}."
        for title in grouped(partial, lambda row: row.title)
    ]


def _log_choices(total: int, size: int) -> float:
    """Return the logarithm of how many subsets of a size there are; the number itself has as many digits as rows."""
    return math.lgamma(total + 1) - math.lgamma(size + 1) - math.lgamma(total - size + 1)


def _repeated_subsets(study: Study) -> list[str]:
    """Return at which α retrained subsets repeat because there are so few rows."""
    count, found = study.info["num_subsets"], []
    for alpha in study.alphas if count else []:
        if not study.has_retrained(alpha):
            continue
        size = round(alpha * study.num_train)
        if _log_choices(study.num_train, size) > math.log(_UNLIKELY * count**2):
            continue
        masks = study.subset_masks(alpha)
        different = len(np.unique(masks, axis=0))
        if different < len(masks):
            found.append(
                f"Only {different} of the {len(masks)} retrained subsets at α = {alpha:g} differ, for there are "
                f"{study.num_train} training rows: intervals over subsets are too narrow."
            )
    return found


def _stopping(study: Study) -> str:
    """Return how well the LDS of a study is known whose retraining stops when it is known well enough."""
    until = study.info.get("until")
    if until is None:
        return ""
    rows = repository.rows(study.workspace, LDS, study_id=study.study_id)
    if rows.empty:
        return ""
    number, width = min(rows.num_subsets.tolist()), widest_half_width(rows)
    most = study.info["most_subsets"]
    biased = " As the width ended it, intervals are a little too narrow." if number < most else ""
    return (
        f"Retraining goes on until every LDS (at λ*, where there is λ) is known to ±{until:g}, for at most {most} "
        f"subsets: after {number} the widest interval is ±{width:.3g}.{biased if width <= until else ''}"
    )


def _draws(rows: Sequence[ConfigurationRow], draws: int) -> str:
    """Return whether intervals know how much a projection's draw matters, where something is projected."""
    dims = sorted({row.projection_dim for row in rows if row.projection_dim is not None})
    if not dims:
        return ""
    said = ", ".join(str(dim) for dim in dims)
    if draws == 1:
        return (
            f"Projected answers (k = {said}) rest on one draw of the projection: their intervals leave out other draws "
            "(projection.draws has them in)."
        )
    return (
        f"LDS of projected answers (k = {said}) is the mean over {draws} draws of the projection; its intervals hold "
        "what another draw would change. The first draw alone gives scores, ξ, examples, λ by layer and the "
        "comparison of two configurations."
    )


def _count(number: int) -> str:
    return f"{number:,}".replace(",", "\u202f")
