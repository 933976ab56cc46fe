"""Claims that name a left and a right side by selectors of configurations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from tda_backend.errors import StudyError
from tda_backend.studies.config.selector import Selector
from tda_backend.studies.contract.choosing import check_selector
from tda_backend.studies.contract.claim import ClaimKind, Content

LEFT, RIGHT = "left", "right"


@dataclass(frozen=True)
class Sides(Content):
    """What is compared with what.

    Attributes:
        left: One selector; several where there is no right side.
        right: Selectors, each of which the left is compared with.
    """

    left: tuple[Selector, ...]
    right: tuple[Selector, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return it as the study file has it, checked."""
        sides = {LEFT: self.left, RIGHT: self.right}
        return {name: [item.to_json() for item in items] for name, items in sides.items() if items}

    def with_alpha(self, all_but_one: float) -> Self:
        """Return it with α = 1 − 1/n as the number that it is in a study."""
        return type(self)(*(tuple(_with_alpha(item, all_but_one) for item in side) for side in (self.left, self.right)))


def _with_alpha(selector: Selector, all_but_one: float) -> Selector:
    return selector.changed(alpha=all_but_one) if isinstance(selector.alpha, str) else selector


class SidesKind(ClaimKind[Sides]):
    """A kind of claim whose sides are selectors."""

    KEYS = (LEFT, RIGHT)

    def check(self, key: str, given: Mapping[str, Any]) -> Sides:
        """Return the sides after checking every selector and how many there are."""
        return Sides(*(self._side(f"{key}.{name}", name, as_list(given[name])) for name in self.KEYS))

    def _side(self, key: str, name: str, items: Sequence[Any]) -> tuple[Selector, ...]:
        selectors = tuple(self.check_selector(key, item) for item in items)
        if not items or (name == LEFT and RIGHT in self.KEYS and len(items) > 1):
            raise StudyError(f"{key} has {len(items)} entries.", "left has one, right at least one.")
        return selectors

    def check_selector(self, key: str, value: Any) -> Selector:
        """Return a selector of one side, checked."""
        return check_selector(key, value)

    def parse(self, content: Mapping[str, Any]) -> Sides:
        """Return the sides of a checked claim."""
        return Sides(*(tuple(Selector(item) for item in content[name]) for name in self.KEYS))

    def selectors(self, content: Sides) -> Sequence[Selector]:
        """Return the configurations of both sides."""
        return (*content.left, *content.right)


def as_list(value: Any) -> list[Any]:
    """Return a list, of one entry where a study file gives that alone."""
    return value if isinstance(value, list) else [value]
