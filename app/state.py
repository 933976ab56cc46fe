"""What is being looked at, as a value: typed, immutable, and the same thing as the URL's query.

Pure functions; :mod:`app.session` binds them to the running page.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from app.formats import parse_regularization, projection_text, regularization_text

UNPROJECTED = "none"
CORRECTNESS = ("right", "wrong")
PICKS = ("all", "wrong", "margin")
DEFAULT_THRESHOLD = 0.5


@dataclass(frozen=True)
class View:
    """Everything a link must carry to show the same thing again. Empty or ``None`` means: not chosen, use the default.

    Attributes:
        study: Name of the study.
        method: Method with its variant, e.g. ``iffim`` or ``tracin-normalization``.
        epoch: Checkpoint where features are taken.
        k: Projection dimension as text, ``none`` for the unprojected answer.
        lam: λ ≥ 0 in units of the mean Gram.
        query: Position in the study's query list.
        classes: Labels of the training examples that are kept.
        right: ``right`` or ``wrong``: keep training examples that the model predicts so.
        pick: Which queries the gallery offers: all, wrong (misclassified) or margin (lowest first).
        pick_class: Label of the queries that the gallery offers.
        alpha: Share of the training set in a retrained subset.
        xi: Threshold of the surrogate indicator.
    """

    study: str = ""
    method: str = ""
    epoch: int | None = None
    k: str = ""
    lam: float | None = None
    query: int | None = None
    classes: tuple[str, ...] = ()
    right: str = ""
    pick: str = "all"
    pick_class: str = ""
    alpha: float | None = None
    xi: float = DEFAULT_THRESHOLD


def parse(params: Mapping[str, str]) -> tuple[View, list[str]]:
    """Return the view of a URL's query, and one sentence for each value that could not be read."""
    notes: list[str] = []

    def integer(name: str) -> int | None:
        text = params.get(name, "")
        if text and not text.isdecimal():
            notes.append(f"The link says {name} = {text!r}, which is no whole number; the default is shown.")
            return None
        return int(text) if text else None

    def number(name: str, low: float, high: float) -> float | None:
        text = params.get(name, "")
        value = parse_regularization(text) if text else None
        if text and (value is None or not low <= value <= high):
            notes.append(f"The link says {name} = {text!r}, which is not allowed there; the default is shown.")
            return None
        return value

    def one_of(name: str, allowed: tuple[str, ...], default: str) -> str:
        text = params.get(name, default)
        if text not in allowed:
            notes.append(f"The link says {name} = {text!r}; allowed are {', '.join(filter(None, allowed))}.")
            return default
        return text

    k = params.get("k", "")
    if k and k != UNPROJECTED and not k.isdecimal():
        notes.append(f"The link says k = {k!r}; a whole number or {UNPROJECTED!r} is allowed.")
        k = ""
    threshold = number("xi", 0.01, 0.99)
    view = View(
        study=params.get("study", ""),
        method=params.get("method", ""),
        epoch=integer("epoch"),
        k=k,
        lam=number("lam", 0.0, math.inf),
        query=integer("query"),
        classes=tuple(part for part in params.get("class", "").split("|") if part),
        right=one_of("right", ("", *CORRECTNESS), ""),
        pick=one_of("pick", PICKS, "all"),
        pick_class=params.get("of", ""),
        alpha=number("alpha", 0.0, 1.0),
        xi=DEFAULT_THRESHOLD if threshold is None else threshold,
    )
    return view, notes


def to_params(view: View) -> dict[str, str]:
    """Return the URL query of a view: the inverse of :func:`parse`; what is at its default is left out."""
    params = {
        "study": view.study,
        "method": view.method,
        "epoch": "" if view.epoch is None else str(view.epoch),
        "k": view.k,
        "lam": "" if view.lam is None else f"{float(f'{view.lam:.6g}'):g}",
        "query": "" if view.query is None else str(view.query),
        "class": "|".join(view.classes),
        "right": view.right,
        "pick": "" if view.pick == "all" else view.pick,
        "of": view.pick_class,
        "alpha": "" if view.alpha is None else f"{view.alpha:g}",
        "xi": "" if math.isclose(view.xi, DEFAULT_THRESHOLD) else f"{view.xi:g}",
    }
    return {name: text for name, text in params.items() if text}


def k_text(projection_dim: Any) -> str:
    """Return a projection dimension as the URL writes it."""
    return UNPROJECTED if pd.isna(projection_dim) else str(int(projection_dim))


def _distance(row: Mapping[str, Any], view: View) -> tuple[int, float]:
    """Return how far a configuration is from what is wanted: settings that differ, then octaves between them."""
    wrong, octaves = 0, 0.0
    if view.epoch is not None and row["training_epoch"] != view.epoch:
        wrong += 1
        octaves += abs(math.log2(max(1, row["training_epoch"]) / max(1, view.epoch)))
    if view.k and k_text(row["projection_dim"]) != view.k:
        wrong += 1
        dims = [20000.0 if text == UNPROJECTED else float(text) for text in (k_text(row["projection_dim"]), view.k)]
        octaves += abs(math.log2(max(1.0, dims[0]) / max(1.0, dims[1])))
    return wrong, octaves


def nearest(configurations: pd.DataFrame, view: View, pinned: str = "") -> tuple[pd.Series, str]:
    """Return the configuration closest to a view, and a sentence if it is not exactly what was asked for.

    Args:
        configurations: Rows with variant, variant_title, training_epoch, projection_dim, best_lds.
        view: What is wanted; the method goes first.
        pinned: ``epoch`` or ``k``: the setting that was just chosen and must hold if anything has it.
    """
    rows = configurations
    note = ""
    if view.method:
        mine = rows[rows["variant"] == view.method]
        if len(mine):
            rows = mine
        else:
            allowed = ", ".join(dict.fromkeys(rows["variant"]))
            note = f"There is no method {view.method!r} here yet (there is: {allowed}). "
    if pinned == "epoch" and (rows["training_epoch"] == view.epoch).any():
        rows = rows[rows["training_epoch"] == view.epoch]
    if pinned == "k" and rows["projection_dim"].map(k_text).eq(view.k).any():
        rows = rows[rows["projection_dim"].map(k_text) == view.k]
    if view.epoch is None and not view.k:
        best = rows["best_lds"].fillna(-math.inf)
        return rows.loc[best.idxmax() if best.gt(-math.inf).any() else rows.index[0]], note.strip()
    distances = [_distance(row, view) for row in rows.to_dict("records")]
    row = rows.iloc[min(range(len(rows)), key=distances.__getitem__)]
    if min(distances)[0]:
        wanted = [] if view.epoch is None else [f"epoch {view.epoch}"]
        wanted += [projection_text(None if view.k == UNPROJECTED else int(view.k))] if view.k else []
        found = f"epoch {row['training_epoch']}, {projection_text(row['projection_dim'])}"
        note += f"{row['variant_title']} has no {', '.join(wanted)}; the nearest is shown: {found}."
    return row, note.strip()


def at_configuration(view: View, row: Mapping[str, Any]) -> View:
    """Return the view with method, epoch and k of a configuration."""
    return replace(view, method=row["variant"], epoch=int(row["training_epoch"]), k=k_text(row["projection_dim"]))


def describe(view: View) -> str:
    """Return the view in a few words, for captions and file names."""
    k = projection_text(None if view.k in ("", UNPROJECTED) else int(view.k))
    return f"{view.method}, epoch {view.epoch}, {k}, λ = {regularization_text(view.lam)}"
