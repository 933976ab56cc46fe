"""Sections of counterfactual retraining, both optional.

::

    [removal]            # remove the k most helpful examples of a query, retrain, and see whether it flips
    queries = 20         # correct under every base seed, drawn at random
    sizes = [20, 40, 60, 80, 100, 120]
    seeds = 5            # retrainings of each removal; the full training set is retrained with the same seeds
    of = [{method = "iffim", epoch = 5, regularization = "selected"}, {method = "iffim", epoch = 5,
          regularization = "zero"}]
    random = true        # the baseline: random training examples of the query's class
    bisections = 0       # rounds that narrow down the size at which a query flips
    [loo]                # leave single training examples out
    examples = 20
    seeds = 5
    choice = "top"       # the most influential examples of the selectors in turn, or "random"
    of = [{method = "iffim", epoch = 5}]
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from tda_backend.errors import StudyError
from tda_backend.studies.config.section import Section, setting
from tda_backend.studies.config.selector import Selector
from tda_backend.studies.config.values import MOST_EXAMPLES, MOST_SEEDS, many, one_of, table, whole

NUM_QUICK_SIZES = 2
TOP, AT_RANDOM = "top", "random"
"""How the examples of leave-one-out are chosen."""


@dataclass(frozen=True, kw_only=True)
class _WithSelectors(Section):
    """A section whose ``of`` names configurations; who knows the method table checks them more closely."""

    of: Sequence[Selector] = setting(many(table, allow_one=True, may_be_empty=True), [])

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Return the section, its selectors as types."""
        return cls(**{**content, "of": tuple(Selector(item) for item in content.get("of", ()))})

    @classmethod
    def quick(cls, content: Mapping[str, Any], selector: Callable[[Mapping[str, Any]], dict[str, Any]]) -> dict:
        """Return the small version of a table: numbers within the limits, each selector as the quick study has it."""
        whole_section = {**cls.defaults(), **copy.deepcopy(dict(content))}
        small = {key: min(whole_section[key], limit) for key, limit in cls.limits().items()}
        selectors = [selector(item) for item in whole_section["of"]]
        once = [item for number, item in enumerate(selectors) if item not in selectors[:number]]
        return {**whole_section, **small, "of": once}


@dataclass(frozen=True, kw_only=True)
class Removal(_WithSelectors):
    """Subset removal (SOURCE, arXiv 2405.12186, B.3).

    Attributes:
        queries: How many, correct under every base seed, drawn at random.
        sizes: Numbers of examples that are removed, ascending.
        seeds: Retrainings of each removal.
        of: Who says what helps.
        random: Whether random examples of the query's class are removed too.
        bisections: Rounds that narrow down the size at which a query flips.
    """

    NAME: ClassVar[str] = "removal"

    queries: int = setting(whole(1, MOST_EXAMPLES), 20, quick=4)
    sizes: Sequence[int] = setting(many(whole(1), allow_one=True), None)
    seeds: int = setting(whole(1, MOST_SEEDS), 5, quick=2)
    random: bool = setting(one_of(True, False), True)
    bisections: int = setting(whole(0, 64), 0, quick=0)

    def check(self, num_train: int, num_queries: int) -> None:
        """Raise a StudyError where values contradict each other or the study's counts."""
        if not self.sizes:
            raise StudyError(
                "The study has [removal] without sizes.", "Say how many to remove, e.g. sizes = [20, 40, 80]."
            )
        if list(self.sizes) != sorted(self.sizes):
            raise StudyError(
                f"removal.sizes = {list(self.sizes)} is not ascending.", f"Write sizes = {sorted(self.sizes)}."
            )
        if self.sizes[-1] >= num_train:
            raise StudyError(
                f"removal.sizes has {self.sizes[-1]}, which leaves nothing of {num_train} training examples.",
                f"Remove at most {num_train - 1}.",
            )
        if not self.of and not self.random:
            raise StudyError(
                "[removal] has nothing to remove: of is empty and random = false.",
                'Name methods, e.g. of = [{method = "iffim"}], or set random = true.',
            )
        if self.queries > num_queries:
            raise StudyError(f"removal.queries = {self.queries} is too many.", f"data.queries is {num_queries}.")

    @staticmethod
    def quick_sizes(sizes: Sequence[int], num_before: int, num_train: int) -> list[int]:
        """Return a few sizes that are the same shares of fewer examples."""
        shares = [size * num_train / num_before for size in sizes]
        found = sorted({min(num_train - 1, max(1, round(value))) for value in shares})
        step = max(1, -(-len(found) // NUM_QUICK_SIZES))
        return found[::-1][::step][::-1]


@dataclass(frozen=True, kw_only=True)
class LeaveOneOut(_WithSelectors):
    """Retraining without single training examples.

    Attributes:
        examples: How many.
        seeds: Retrainings without each.
        of: Whose most influential examples are left out, in turn.
        choice: ``top`` or ``random`` examples.
    """

    NAME: ClassVar[str] = "loo"

    examples: int = setting(whole(2, MOST_EXAMPLES), 20, quick=5)
    seeds: int = setting(whole(1, MOST_SEEDS), 5, quick=2)
    choice: str = setting(one_of(TOP, AT_RANDOM), TOP)

    def check(self, num_train: int, num_queries: int) -> None:
        """Raise a StudyError where values contradict each other or the study's counts."""
        if self.choice == TOP and not self.of:
            raise StudyError(
                'loo.choice = "top" needs methods whose most influential examples are left out, but loo.of is empty.',
                'Name some, e.g. of = [{method = "iffim"}], or set choice = "random".',
            )
        if self.examples > num_train:
            raise StudyError(f"loo.examples = {self.examples} is too many.", f"data.train is {num_train}.")
