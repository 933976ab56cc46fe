"""The strategies of selection while training that a study can name: what each runs, and how pages call and draw it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tda_backend.numerics.trajectory.lookahead.strategy import Kind, Strategy
from tda_backend.numerics.trajectory.unrolled.influence import Assume


@dataclass(frozen=True, kw_only=True)
class NamedStrategy:
    """A strategy under its name, which does not hold its horizon.

    Attributes:
        name: Key in study files and tables.
        title: For people.
        kind: What it runs; ``None``: this version does not know it.
        assume: Which optimizer its scores assume.
        looks_ahead: Whether it has a K.
        keeps_all: Whether it trains on all data: what cost is relative to.
        color: ``#rrggbb``.
        dash: Of lines, as Plotly names it.
        symbol: Of marks, as Plotly names it.
    """

    name: str
    title: str
    kind: Kind | None = None
    assume: Assume = "as trained"
    looks_ahead: bool = False
    keeps_all: bool = False
    color: str = "#7d8795"
    dash: str = "solid"
    symbol: str = "circle"

    @property
    def heading(self) -> str:
        """The title at the beginning of a sentence."""
        return self.title[:1].upper() + self.title[1:]

    def at(self, horizon: int | None, fraction: float) -> Strategy:
        """Return what it runs.

        Args:
            horizon: K, ``None`` for the whole run; without meaning for strategies that do not look ahead.
            fraction: Of every batch that is kept.
        """
        assert self.kind is not None, "a strategy of another version runs nothing here"
        return Strategy(self.kind, horizon if self.looks_ahead else 1, fraction, self.assume)


STRATEGIES = {
    row.name: row
    for row in (
        NamedStrategy(name="look-ahead", title="look-ahead", kind="look-ahead", looks_ahead=True, color="#2f7fd1"),
        NamedStrategy(
            name="look-ahead (sgd)",
            title="look-ahead (SGD assumed)",
            kind="look-ahead",
            assume="sgd",
            looks_ahead=True,
            color="#9a63cf",
            dash="dash",
            symbol="diamond",
        ),
        NamedStrategy(
            name="alignment",
            title="gradient alignment",
            kind="alignment",
            color="#2a9d80",
            dash="dot",
            symbol="square",
        ),
        NamedStrategy(name="random", title="random", kind="random", dash="dashdot", symbol="x"),
        NamedStrategy(
            name="full",
            title="all data",
            kind="full",
            keeps_all=True,
            color="#1596b5",
            dash="longdash",
            symbol="triangle-up",
        ),
    )
}
"""In the order of pages."""


def strategy(name: str) -> NamedStrategy:
    """Return a strategy; one that this version does not know is drawn in grey, under its key."""
    return STRATEGIES.get(name) or NamedStrategy(name=name, title=name)


def ordered(names: Iterable[str]) -> list[NamedStrategy]:
    """Return strategies, each once, in the order of the page; unknown ones last."""
    known = list(STRATEGIES)
    found = dict.fromkeys(names)
    return [strategy(n) for n in sorted(found, key=lambda name: known.index(name) if name in known else len(known))]
