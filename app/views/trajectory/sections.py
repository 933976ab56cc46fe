"""The two sections of a study file that this page shows, and what it says while there is nothing of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tda_backend.interfaces.reading.records.lookahead import SelectionRun, TunedStrategy
from tda_backend.interfaces.reading.records.trajectory import RunAgreement


@dataclass(frozen=True)
class Section:
    """A section of a study file.

    Attributes:
        name: Its key.
        title: Heading on the page.
        embedded: The embedded study that shows it.
        kinds: Rows of which some must be there; the first is in every finished study.
        what: How the sentence begins that says how to ask for it.
        lines: What a study file needs.
    """

    name: str
    title: str
    embedded: str
    kinds: tuple[Any, ...]
    what: str
    lines: str


UNROLLED = Section(
    "trajectory",
    "Does it matter which optimizer is assumed?",
    "trajectory-mnist-mlp",
    (RunAgreement,),
    "A training run is unrolled, and its predictions are compared with the truth, with",
    """[trajectory]
learning_rates = [1e-3, 1e-4, 1e-5]
seeds = 3
removed = 200""",
)
SELECTION = Section(
    "lookahead",
    "Selecting data while training",
    "lookahead-mnist-noisy",
    (TunedStrategy, SelectionRun),
    "Data is selected while training with",
    """[lookahead]
learning_rates = [1e-3, 3e-3]
horizons = [1, 5, 20, "all"]
fraction = 0.5
seeds = 5""",
)
