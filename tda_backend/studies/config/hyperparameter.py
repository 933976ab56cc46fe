"""Hyper-parameters of methods: what a study file may say of each, and how labels and forms show it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from tda_backend.errors import StudyError
from tda_backend.studies.config.values import MOST, MOST_DIMENSIONS, short

Kind = Literal["whole", "real", "flag", "choice", "dimension", "epochs"]
NONE = "none"


@dataclass(frozen=True)
class Hyperparameter:
    """One hyper-parameter of a method, beside λ.

    Attributes:
        name: Key in a study file.
        kind: ``whole`` or ``real`` number, ``flag`` (true or false), ``choice``, ``dimension`` (whole number or
            ``"none"``) or ``epochs``.
        meaning: One line for people.
        default: Value, or values where it sweeps; ``None``: the study's saved epochs.
        grid: What the papers sweep (METHODS §8); the default where they do not.
        low: Smallest number allowed (``real``: exclusive).
        high: Largest number allowed (``real``: exclusive), or ``None``.
        choices: Allowed texts of a ``choice``.
        sweep: Whether a study may give several values, each of which makes configurations.
        may_be_empty: Whether a study may give no value at all.
        in_filter: Whether it enters the filter alone, so that no new coordinates are computed for it.
        is_labelled: Whether labels name it.
        is_always_labelled: Whether labels name it at its default too.
        noun: What a label calls a choice, e.g. ``true Fisher``, or what a number counts; empty: the choice says it, or
            the name.
        title: What boxes and axes call it; empty: its name.
        zero: What stands for the number 0, e.g. ``all``; empty: 0.
        quick: Largest number in a quick study.
        may_be_absent: Whether a study that does not give it says nothing of it: it came later, and keys stay what they
            were.
        counts_repeats: Whether it counts what is retrained or repeated: then a quick study that tests claims, which
            keeps its grids, is limited too.
    """

    name: str
    kind: Kind
    meaning: str
    default: Any = None
    grid: tuple[Any, ...] = ()
    low: float = 1
    high: float | None = None
    choices: tuple[str, ...] = ()
    sweep: bool = True
    may_be_empty: bool = False
    in_filter: bool = False
    is_labelled: bool = True
    is_always_labelled: bool = False
    noun: str = ""
    title: str = ""
    zero: str = ""
    quick: int | None = None
    may_be_absent: bool = False
    counts_repeats: bool = False

    @property
    def usual(self) -> Any:
        """The default of one configuration."""
        return self.default[0] if self.sweep and self.default else self.default

    def to_json(self) -> dict[str, Any]:
        """Return what ``tda methods --json`` prints of it."""
        return {
            "name": self.name,
            "kind": self.kind,
            "meaning": self.meaning,
            "default": self.default,
            "grid": self.grid,
            "low": self.low,
            "high": self.high,
            "choices": self.choices,
            "sweep": self.sweep,
            "in_filter": self.in_filter,
            "range": self.range,
        }

    def shortened(self, value: Any, keeps_grids: bool = False) -> Any:
        """Return one value as a quick study has it; ``keeps_grids``: in one whose grids are kept."""
        limited = self.quick is not None and (self.counts_repeats or not keeps_grids)
        return min(value, self.quick) if limited else value

    def words(self, value: Any) -> str:
        """Return one value as a label has it."""
        name = self.name.replace("_", " ")
        if self.kind == "flag":
            return name if value else f"no {name}"
        if self.kind != "choice":
            return f"{value:g} {self.noun}" if self.noun else f"{name} {value:g}"
        return f"{value} {self.noun}" if self.noun else str(value)

    @property
    def range(self) -> str:
        """What is allowed, in words."""
        if self.kind == "choice":
            return ", ".join(self.choices)
        if self.kind == "flag":
            return "true, false"
        if self.kind == "epochs":
            return "saved epochs"
        if self.kind == "dimension":
            return 'whole numbers ≥ 1, "none"'
        if self.kind == "whole":
            return f"whole numbers {f'≥ {self.low:g}' if self.high is None else f'{self.low:g} to {self.high:g}'}"
        return f"numbers > {self.low:g}" if self.high is None else f"numbers between {self.low:g} and {self.high:g}"

    def check(self, key: str, value: Any) -> Any:
        """Return one value after checking it.

        Raises:
            StudyError: It is not allowed; says what is.
        """
        whole = isinstance(value, int) and not isinstance(value, bool)
        small = not whole or abs(value) < 2**63  # larger ones are no float
        number = float(value) if small and (whole or isinstance(value, float)) else math.nan
        allowed = {
            "flag": isinstance(value, bool),
            "choice": value in self.choices,
            "dimension": value == NONE or (whole and 1 <= number <= MOST_DIMENSIONS),
            "epochs": whole and 1 <= number <= MOST,
            "whole": whole and number >= self.low and number <= (MOST if self.high is None else self.high),
            "real": number > self.low and (math.isfinite(number) if self.high is None else number < self.high),
        }[self.kind]
        if not allowed:
            raise StudyError(f"{key} = {short(value)} is not allowed.", f"Allowed: {self.range}.")
        return float(value) if self.kind == "real" else value
