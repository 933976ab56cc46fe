"""What is being looked at, as a value: typed, immutable, and the same thing as the URL's query.

Pure functions; :mod:`app.session` binds them to the running page.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from app import settings
from app.configurations import Configuration
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


LONGEST_TEXT, MOST_DIGITS, MOST_PARTS = 2000, 15, 100
"""What a link may say: characters and digits of a value, parts of a list."""


@dataclass(frozen=True)
class Unread:
    """A value of a link that says nothing.

    Attributes:
        name: Which.
        text: What the link says.
        why: Why that says nothing.
    """

    name: str
    text: str
    why: str

    def sentence(self, complete: Mapping[str, str]) -> str:
        """Return what the link says and what is shown instead, by the query of the completed view."""
        shown = complete.get(self.name) or _SHOWN.get(self.name, "nothing of it")
        text = self.text if len(self.text) <= _LONGEST else f"{self.text[:_LONGEST]}…"
        return f"The link says {self.name} = {text!r}, {self.why}; shown: {shown}."


_SHOWN = {
    "xi": f"{DEFAULT_THRESHOLD:g}",
    "right": "all",
    "pick": "all",
    "alpha": "the study's first",
    "at": "λ*",
    "truth": "fixed",
    "rate": "the study's first",
    "run": "the first",
    "effect": "the mean over queries",
}
"""Values that an address leaves out."""
_LONGEST = 40


class _Reader:
    """One query of a URL, read value by value; what cannot be read is noted and gets its default."""

    def __init__(self, params: Mapping[str, str]) -> None:
        self.params = {name: text for name, text in params.items() if len(text) <= LONGEST_TEXT}
        self.notes: list[Unread] = []
        for name, text in params.items():
            if name not in self.params:
                self._note(name[:_LONGEST], text, f"which is more than {LONGEST_TEXT} characters")

    def _note(self, name: str, text: str, why: str) -> None:
        self.notes.append(Unread(name, text, why))

    def text(self, name: str) -> str:
        """Return a value as it stands, empty if it is not there."""
        return self.params.get(name, "")

    def texts(self, name: str, between: str = ",") -> tuple[str, ...]:
        """Return the parts of a list."""
        return tuple(part for part in self.text(name).split(between) if part)[:MOST_PARTS]

    def integer(self, name: str) -> int | None:
        """Return a whole number ≥ 0, or ``None``."""
        text = self.text(name)
        if text and not (text.isdecimal() and len(text) <= MOST_DIGITS):
            self._note(name, text, "which is no whole number that occurs here")
            return None
        return int(text) if text else None

    def number(self, name: str, low: float, high: float) -> float | None:
        """Return a number between two, or ``None``."""
        text = self.text(name)
        value = parse_regularization(text) if text else None
        if text and (value is None or not low <= value <= high):
            self._note(name, text, "which is not allowed there")
            return None
        return value

    def one_of(self, name: str, allowed: tuple[str, ...], default: str) -> str:
        """Return one of some words."""
        text = self.params.get(name, default)
        if text not in allowed:
            self._note(name, text, f"but allowed are {', '.join(filter(None, allowed))}")
            return default
        return text

    def k(self) -> str:
        """Return the projection dimension as text."""
        text = self.text("k")
        if text and text != UNPROJECTED and not (text.isdecimal() and len(text) <= MOST_DIGITS):
            self._note("k", text, f"but a whole number or {UNPROJECTED!r} is allowed")
            return ""
        return text

    def method(self) -> tuple[str, Settings]:
        """Return the method and its settings; a link of an earlier version means what it meant then."""
        method, old = settings.OLD_LINKS.get(self.text("method"), (self.text("method"), ()))
        chosen, wrong = settings.parse_settings(self.text("set"))
        for part in wrong:
            self._note("set", part, "which is not of the form name:value")
        return method, tuple(sorted({**dict(old), **dict(chosen)}.items()))


def parse(params: Mapping[str, str]) -> tuple[View, list[Unread]]:
    """Return the view of a URL's query, and each value that could not be read."""
    read = _Reader(params)
    k, threshold, (method, chosen) = read.k(), read.number("xi", 0.01, 0.99), read.method()
    view = View(
        study=read.text("study"),
        method=method,
        settings=chosen,
        epoch=read.integer("epoch"),
        k=k,
        lam=read.number("lam", 0.0, math.inf),
        query=read.integer("query"),
        classes=read.texts("class", "|"),
        right=read.one_of("right", ("", *CORRECTNESS), ""),
        pick=read.one_of("pick", PICKS, "all"),
        pick_class=read.text("of"),
        alpha=read.number("alpha", 0.0, 1.0),
        xi=DEFAULT_THRESHOLD if threshold is None else threshold,
        axes=read.texts("axes"),
        beside=read.texts("with") if "with" in read.params else None,
        paper=read.text("paper"),
        verdict=read.text("verdict"),
        claims=read.texts("claim"),
        versus=read.text("vs"),
        versus_at=read.one_of("at", VERSUS_AT, "selected"),
        train=read.integer("train"),
        rate=read.number("rate", 0.0, math.inf),
        run=read.integer("run"),
        effect=read.integer("effect"),
        truth=read.one_of("truth", TRUTHS, "fixed"),
        strategy=read.text("strategy"),
        kept=read.integer("kept"),
        results=read.texts("results"),
    )
    return view, read.notes


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


def k_text(projection_dim: int | None) -> str:
    """Return a projection dimension as the URL writes it."""
    return UNPROJECTED if projection_dim is None else str(projection_dim)


def at_configuration(view: View, row: Configuration) -> View:
    """Return the view with method, settings, epoch and k of a configuration."""
    return replace(
        view,
        method=row.method,
        settings=tuple(sorted(row.choices)),
        epoch=row.training_epoch,
        k=k_text(row.projection_dim),
    )


def describe(view: View) -> str:
    """Return the view in a few words, for captions and file names."""
    k = projection_text(None if view.k in ("", UNPROJECTED) else int(view.k))
    chosen = [settings.words(name, value) for name, value in view.settings]
    return ", ".join([view.method, *chosen, f"epoch {view.epoch}", k, f"λ = {regularization_text(view.lam)}"])
