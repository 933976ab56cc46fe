"""Claims about rules for λ: which of them is better, and how far one is from the best λ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tda_backend.numerics.evaluation.claims import Comparison, Measured, difference, mean_of
from tda_backend.studies.claims.of_methods import METHODS, MethodsKind, OfMethods, check_methods
from tda_backend.studies.claims.sides import LEFT, RIGHT, as_list
from tda_backend.studies.config.configuration import Configuration
from tda_backend.studies.config.selector import BEST, Selector
from tda_backend.studies.contract.choosing import check_regularization
from tda_backend.studies.contract.claim import FigureKind
from tda_backend.studies.contract.evidence import Evidence
from tda_backend.studies.contract.method import method

Lambda = float | str
"""λ, or a word for it."""


@dataclass(frozen=True)
class RulesOfMethods(OfMethods):
    """Rules for λ in all configurations of some methods.

    Attributes:
        left: What is looked at.
        right: What it is compared with, one by one; ``None``: the kind compares it with nothing that is named.
    """

    left: tuple[Lambda, ...] = ()
    right: tuple[Lambda, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as the study file has it, checked."""
        right = {} if self.right is None else {RIGHT: list(self.right)}
        return {**super().to_json(), LEFT: list(self.left), **right}


class _RulesKind(MethodsKind[RulesOfMethods]):
    FIGURE = FigureKind.RULES

    def check(self, key: str, given: Mapping[str, Any]) -> RulesOfMethods:
        """Return methods and rules after checking them."""
        methods = check_methods(f"{key}.{METHODS}", given[METHODS])
        spec = method(methods[0])
        sides = (
            tuple(check_regularization(f"{key}.{name}", spec, rule) for rule in as_list(given[name]))
            for name in self.KEYS
            if name != METHODS
        )
        return RulesOfMethods(methods, *sides)

    def parse(self, content: Mapping[str, Any]) -> RulesOfMethods:
        """Return methods and rules of a checked claim."""
        return RulesOfMethods(*(tuple(content[name]) for name in self.KEYS))

    def means(self, content: RulesOfMethods, rules: Sequence[Lambda], evidence: Evidence) -> list[Measured]:
        """Return the mean LDS at the λ of each rule, over the configurations."""
        rows = self.configurations(content, evidence)
        return [_mean(evidence, rows, rule) for rule in rules]


def _mean(evidence: Evidence, rows: Sequence[Configuration], rule: Lambda) -> Measured:
    said = rule if isinstance(rule, str) else f"λ={rule:g}"
    parts = [evidence.at(row, Selector({"method": row.method, "regularization": rule})) for row in rows]
    return mean_of(f"{said} (mean of {len(parts)} configurations)", parts)


class Rule(_RulesKind):
    """One rule for λ is better than others."""

    NAME = "rule"
    WORDS = "mean over the configurations of `methods`: LDS at λ `left` − LDS at each λ `right` lies above `bound`"
    KEYS = (METHODS, LEFT, RIGHT)
    AXIS = "difference of mean LDS, 95 % interval"

    def compare(self, content: RulesOfMethods, bound: float, evidence: Evidence) -> list[Comparison]:
        """Return the difference from each of the other rules."""
        (left,) = self.means(content, content.left[:1], evidence)
        return [difference(left, right, bound) for right in self.means(content, content.right or (), evidence)]


class Regret(_RulesKind):
    """A rule for λ loses little against the best λ."""

    NAME = "regret"
    WORDS = "mean over the configurations of `methods`: best LDS − LDS at λ `left` lies below `bound`"
    KEYS = (METHODS, LEFT)
    DEFAULT_BOUND = 0.02
    ABOVE = False
    AXIS = "best LDS − LDS at the rule's λ, 95 % interval"

    def compare(self, content: RulesOfMethods, bound: float, evidence: Evidence) -> list[Comparison]:
        """Return what each rule loses."""
        (best,) = self.means(content, [BEST], evidence)
        return [difference(best, left, bound, above=False) for left in self.means(content, content.left, evidence)]
