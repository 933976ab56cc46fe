"""A selector: how a study file names one of its configurations and a λ, e.g. ``{method = "iffim", epoch = 5}``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SELECTED, BEST, ZERO, DEFAULT = "selected", "best", "zero", "default"
WORDS = (SELECTED, BEST, ZERO, DEFAULT)
"""Words for a λ: λ* of the indicator, the best of the grid, λ = 0, the papers' default."""
QUANTILE = "quantile "
"""Begins the word for a quantile of the spectrum."""
OWN_KEYS = ("method", "epoch", "projection_dim", "regularization", "alpha", "seeds")
"""Keys of every selector; all others are hyper-parameters of the method."""
_WORDS_SHOWN = {SELECTED: "λ*", BEST: "best λ", ZERO: "λ = 0", DEFAULT: "the paper's λ"}


@dataclass(frozen=True)
class Selector:
    """A checked selector.

    Attributes:
        content: As the study file has it, checked.
    """

    content: Mapping[str, Any]

    @property
    def method(self) -> str:
        """Key of the method table."""
        return str(self.content.get("method", ""))

    @property
    def epoch(self) -> int | None:
        """Training epoch; ``None``: the latest."""
        return self.content.get("epoch")

    @property
    def projection_dim(self) -> int | str | None:
        """k, or ``"none"``; ``None``: not said."""
        return self.content.get("projection_dim")

    @property
    def regularization(self) -> float | str:
        """λ, or a word for it."""
        return self.content.get("regularization", SELECTED)

    @property
    def alpha(self) -> float | None:
        """α of the ground truth; ``None``: the study's first."""
        return self.content.get("alpha")

    @property
    def seeds(self) -> int | None:
        """How many of an ensemble's models take part; ``None``: all."""
        return self.content.get("seeds")

    @property
    def parameters(self) -> dict[str, Any]:
        """Hyper-parameters of the method that the selector gives."""
        return {name: value for name, value in self.content.items() if name not in OWN_KEYS}

    @property
    def words(self) -> str:
        """The λ in words: ``λ*``, ``best λ``, ``λ = 0``."""
        wanted = self.regularization
        return f"λ = {wanted:g}" if not isinstance(wanted, str) else _WORDS_SHOWN.get(wanted, f"λ at {wanted}")

    def changed(self, **values: Any) -> Selector:
        """Return a selector with some keys set."""
        return Selector({**self.content, **values})

    def to_json(self) -> dict[str, Any]:
        """Return it as a study file has it."""
        return dict(self.content)

    def __str__(self) -> str:
        return str(dict(self.content))
