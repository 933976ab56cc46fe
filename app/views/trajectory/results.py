"""Where the page's numbers come from: a study computed here, or one whose results are shipped. No widgets here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar

import streamlit as st

from app import services
from app.session import Context
from app.shared.claims import COMPUTED, SHIPPED
from app.views.trajectory.sections import Section
from tda_backend.interfaces.papers import shipped
from tda_backend.interfaces.papers.shipped_examples import ShippedExamples, shipped_examples
from tda_backend.interfaces.reading.records.base import records
from tda_backend.interfaces.reading.records.examples import Example
from tda_backend.interfaces.reading.records.noisy_labels import WrongLabel
from tda_backend.interfaces.reading.study import Study


class _Row(Protocol):
    TABLE: ClassVar[str]


Row = TypeVar("Row", bound=_Row)


@dataclass(frozen=True)
class Results:
    """The results of one study.

    Attributes:
        name: Of the study.
        origin: ``computed here`` or ``shipped result``.
        config: The resolved study file.
        opened: The study; ``None`` if its results are shipped.
    """

    name: str
    origin: str
    config: Mapping[str, Any]
    opened: Study | None

    def read(self, kind: type[Row]) -> list[Row]:
        """Return all rows of a table, as records of its kind; none if the study has none."""
        if self.opened is None:
            return shipped.shipped_results(self.name).read(kind.TABLE, kind)
        return records(self.opened.trajectory_table(kind.TABLE), kind)

    def read_run(self, kind: type[Row], learning_rate: float, seed_index: int) -> list[Row]:
        """Return a table's rows of one recorded run."""
        if self.opened is None:
            rows: list[Any] = self.read(kind)
            return [row for row in rows if row.learning_rate == learning_rate and row.seed_index == seed_index]
        return records(self.opened.trajectory_table(kind.TABLE, learning_rate, seed_index), kind)

    def asks_for(self, section: Section) -> bool:
        """Return whether the study has a section, computed or not."""
        return section.name in self.config

    def has(self, section: Section) -> bool:
        """Return whether something of a section is there to be shown."""
        return any(self.read(kind) for kind in section.kinds)

    def examples(self, split: str) -> list[Example]:
        """Return the examples of ``train`` or ``queries`` by position; none while nobody has them.

        Those of shipped results are drawn again from the program's own data.
        """
        if self.opened is not None:
            return services.examples(self.opened, split)
        found = _shipped_examples(self.name)
        return [] if found is None else found.train if split == "train" else found.queries

    def wrong_labels(self) -> dict[int, str]:
        """Return training position → what is known of its right label, where the label is known to be wrong."""
        if self.opened is not None:
            rows = records(self.opened.noisy_rows(), WrongLabel)
        else:
            found = _shipped_examples(self.name)
            rows = [] if found is None else [WrongLabel(*pair) for pair in found.noisy.items()]
        return {row.position: row.words for row in rows}


@st.cache_resource(max_entries=8, show_spinner="Drawing the examples again")
def _shipped_examples(name: str) -> ShippedExamples | None:
    return shipped_examples(name)


def of_context(context: Context | None) -> Results | None:
    """Return the study in view as the page needs it, or ``None`` if it has neither section."""
    if context is None or not services.asks_for_runs(context.opened):
        return None
    return Results(context.opened.name, COMPUTED, context.opened.config, context.opened)


def others(section: Section | None = None) -> list[str]:
    """Return the names of the catalogue's studies that have a section (``None``: any of them), newest first."""

    def fits(study: Study) -> bool:
        return services.asks_for_runs(study) if section is None else section.name in study.config

    return list(dict.fromkeys(row.name for row in services.studies() if fits(services.study(row.study_id))))


def shipped_names(section: Section) -> list[str]:
    """Return the studies with shipped results of a section; the embedded one that shows it first."""
    folder = shipped.results_folder()
    table = section.kinds[0].TABLE
    names = [name for name in shipped.shipped_names() if (folder / name / f"{table}.parquet").is_file()]
    return sorted(names, key=lambda name: name != section.embedded)


def of_shipped(name: str) -> Results:
    """Return shipped results as the page needs them."""
    return Results(name, SHIPPED, shipped.shipped_results(name).config, None)


def is_same(left: float, right: float) -> bool:
    """Return whether two learning rates are the same; an address and a table may round differently."""
    return math.isclose(left, right, rel_tol=1e-5)
