"""What is being looked at, as a value: typed, immutable, and the same thing as the URL's query.

Pure functions; :mod:`app.session` binds them to the running page.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from app import settings
from app.formats import parse_regularization, projection_text, regularization_text
from app.settings import Settings

UNPROJECTED = "none"
CORRECTNESS = ("right", "wrong")
PICKS = ("all", "wrong", "margin")
DEFAULT_THRESHOLD = 0.5
TRUTHS = ("fixed", "smaller")
VERSUS_AT = ("selected", "best", "zero", "default", "same")


@dataclass(frozen=True)
class View:
    """Everything a link must carry to show the same thing again. Empty or ``None`` means: not chosen, use the default.

    Attributes:
        study: Name of the study.
        method: Key of the method table, e.g. ``iffim`` or ``if-cg``.
        settings: Hyper-parameters of the method by name, as text; those that differ within the study.
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
        beside: Methods drawn beside the chosen one where methods are compared; ``None``: the page's own choice.
        axes: Of the heatmaps: along, up, and small multiples by; empty: the page's own choice.
        paper: Whose claims are listed; empty: of all papers.
        verdict: Which claims are listed; empty: all.
        claims: Claims that are open, as ``study/claim``.
        versus: Configuration that the present one is compared with.
        train: Position of the training example that is open.
        versus_at: Its λ: ``selected``, ``best``, ``zero``, ``default`` or ``same``.
        rate: Learning rate of the unrolled run.
        run: Seed index of the unrolled run.
        effect: Query whose effects are shown; ``None``: their mean over queries.
        truth: Which removal is the truth: ``fixed`` or ``smaller`` batches.
        strategy: Selection strategy whose examples are shown; empty: the page's own choice.
        kept: Position of the open example among those that selection kept or dropped.
        results: Shipped studies that are shown where none is computed; of each section the first, if none is named.
    """

    study: str = ""
    method: str = ""
    settings: Settings = ()
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
    beside: tuple[str, ...] | None = None
    axes: tuple[str, ...] = ()
    paper: str = ""
    verdict: str = ""
    claims: tuple[str, ...] = ()
    versus: str = ""
    versus_at: str = "selected"
    train: int | None = None
    rate: float | None = None
    run: int | None = None
    effect: int | None = None
    truth: str = "fixed"
    strategy: str = ""
    kept: int | None = None
    results: tuple[str, ...] = ()


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
    method, old = settings.OLD_LINKS.get(params.get("method", ""), (params.get("method", ""), ()))
    chosen, wrong = settings.parse_settings(params.get("set", ""))
    notes += [f"The link says set = {part!r}, which is not of the form name:value; it is left out." for part in wrong]
    view = View(
        study=params.get("study", ""),
        method=method,
        settings=tuple(sorted({**dict(old), **dict(chosen)}.items())),
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
        axes=tuple(filter(None, params.get("axes", "").split(","))),
        beside=tuple(filter(None, params["with"].split(","))) if "with" in params else None,
        paper=params.get("paper", ""),
        verdict=params.get("verdict", ""),
        claims=tuple(filter(None, params.get("claim", "").split(","))),
        versus=params.get("vs", ""),
        versus_at=one_of("at", VERSUS_AT, "selected"),
        train=integer("train"),
        rate=number("rate", 0.0, math.inf),
        run=integer("run"),
        effect=integer("effect"),
        truth=one_of("truth", TRUTHS, "fixed"),
        strategy=params.get("strategy", ""),
        kept=integer("kept"),
        results=tuple(filter(None, params.get("results", "").split(","))),
    )
    return view, notes


def to_params(view: View) -> dict[str, str]:
    """Return the URL query of a view: the inverse of :func:`parse`; what is at its default is left out."""
    params = {
        "study": view.study,
        "method": view.method,
        "set": settings.settings_text(view.settings),
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
        "axes": ",".join(view.axes),
        "with": "" if view.beside is None else ",".join(view.beside) or ",",
        "paper": view.paper,
        "verdict": view.verdict,
        "claim": ",".join(view.claims),
        "vs": view.versus,
        "train": "" if view.train is None else str(view.train),
        "at": "" if view.versus_at == "selected" else view.versus_at,
        "rate": "" if view.rate is None else f"{view.rate:g}",
        "run": "" if view.run is None else str(view.run),
        "effect": "" if view.effect is None else str(view.effect),
        "truth": "" if view.truth == "fixed" else view.truth,
        "strategy": view.strategy,
        "kept": "" if view.kept is None else str(view.kept),
        "results": ",".join(view.results),
    }
    return {name: text for name, text in params.items() if text}


def k_text(projection_dim: Any) -> str:
    """Return a projection dimension as the URL writes it."""
    return UNPROJECTED if pd.isna(projection_dim) else str(int(projection_dim))


def _distance(row: Mapping[str, Any], view: View) -> tuple[int, float, int, float]:
    """Return how far a configuration is from what is wanted.

    Settings that differ, then octaves between them, then settings that nobody chose and that are not the default,
    then the LDS.
    """
    wrong, octaves = 0, 0.0
    if view.epoch is not None and row["training_epoch"] != view.epoch:
        wrong += 1
        octaves += abs(math.log2(max(1, row["training_epoch"]) / max(1, view.epoch)))
    if view.k and k_text(row["projection_dim"]) != view.k:
        wrong += 1
        dims = [20000.0 if text == UNPROJECTED else float(text) for text in (k_text(row["projection_dim"]), view.k)]
        octaves += abs(math.log2(max(1.0, dims[0]) / max(1.0, dims[1])))
    asked = dict(view.settings)
    for name, value in asked.items():
        if row["settings"].get(name) != value:
            wrong += 1
            octaves += settings.distance(value, row["settings"].get(name, ""))
    unusual = sum(value != row["defaults"].get(name) for name, value in row["settings"].items() if name not in asked)
    best = row["best_lds"]
    return wrong, octaves, unusual, -best if math.isfinite(best) else math.inf


def _pinned(rows: pd.DataFrame, view: View, pinned: str) -> pd.DataFrame:
    """Return the rows that have the setting that was just chosen, or all if none has it."""
    if pinned == "epoch":
        mine = rows["training_epoch"] == view.epoch
    elif pinned == "k":
        mine = rows["projection_dim"].map(k_text) == view.k
    else:
        wanted = dict(view.settings).get(pinned)
        mine = pd.Series([wanted is not None and row.get(pinned) == wanted for row in rows["settings"]], rows.index)
    return rows[mine] if mine.any() else rows


def nearest(configurations: pd.DataFrame, view: View, pinned: str = "") -> tuple[pd.Series, str]:
    """Return the configuration closest to a view, and a sentence if it is not exactly what was asked for.

    Args:
        configurations: Rows with method, variant_title, training_epoch, projection_dim, settings (dict), choices
            (dict: those of the settings that differ within the method), defaults (dict), best_lds.
        view: What is wanted; the method goes first.
        pinned: ``epoch``, ``k`` or the name of a setting that was just chosen and must hold if anything has it.
    """
    rows = configurations
    note = ""
    if view.method:
        mine = rows[rows["method"] == view.method]
        if len(mine):
            rows = mine
        else:
            allowed = ", ".join(dict.fromkeys(rows["method"]))
            note = f"There is no method {view.method!r} here yet (there is: {allowed}). "
            view = replace(view, settings=())
    known = {name for row in rows["settings"] for name in row}
    unknown = [name for name, _ in view.settings if name not in known]
    if unknown:
        allowed = f"it has {', '.join(sorted(known))}" if known else "it has none"
        note += f"{rows['method'].iloc[0]} has no setting {', '.join(map(repr, unknown))} ({allowed}). "
        view = replace(view, settings=tuple((name, value) for name, value in view.settings if name in known))
    rows = _pinned(rows, view, pinned) if pinned else rows
    if view.epoch is None and not view.k and not view.settings:
        best = rows["best_lds"].fillna(-math.inf)
        return rows.loc[best.idxmax() if best.gt(-math.inf).any() else rows.index[0]], note.strip()
    distances = [_distance(row, view) for row in rows.to_dict("records")]
    row = rows.iloc[min(range(len(rows)), key=distances.__getitem__)]
    if min(distances)[0]:
        wanted = [] if view.epoch is None else [f"epoch {view.epoch}"]
        wanted += [projection_text(None if view.k == UNPROJECTED else int(view.k))] if view.k else []
        wanted += [settings.words(name, value) for name, value in view.settings]
        found = [f"epoch {row['training_epoch']}", projection_text(row["projection_dim"])]
        found += [settings.words(name, row["settings"][name]) for name, _ in view.settings]
        note += f"{row['variant_title']} has no {', '.join(wanted)}; the nearest is shown: {', '.join(found)}."
    return row, note.strip()


def at_configuration(view: View, row: Mapping[str, Any]) -> View:
    """Return the view with method, settings, epoch and k of a configuration."""
    return replace(
        view,
        method=row["method"],
        settings=tuple(sorted(row["choices"].items())),
        epoch=int(row["training_epoch"]),
        k=k_text(row["projection_dim"]),
    )


def describe(view: View) -> str:
    """Return the view in a few words, for captions and file names."""
    k = projection_text(None if view.k in ("", UNPROJECTED) else int(view.k))
    chosen = [settings.words(name, value) for name, value in view.settings]
    return ", ".join([view.method, *chosen, f"epoch {view.epoch}", k, f"λ = {regularization_text(view.lam)}"])
