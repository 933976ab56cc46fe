"""Examples of a task as a study stores them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

_NUMBER = re.compile(r"[-+]?\d+\.?\d*(e[-+]?\d+)?")


@dataclass(frozen=True)
class Example:
    """One row of :meth:`Study.examples`.

    Attributes:
        position: Place in its split, from 0.
        index: Row in the task's own data set.
        label: Class, or the value that a regression is to predict; empty or ``None`` where there is none, as for text.
        has_classes: Whether labels are classes, so that a prediction is right or wrong.
        prediction: What the model predicts, ``None`` or empty where there is no such thing.
        goodness: The measurement; ``None`` while the model is not trained.
        loss: Of the attributed model.
        payload: PNG bytes, or text.
        kind: ``image``, ``text``, …: what the payload is.
        caption: One line about it.
    """

    position: int
    index: int
    label: str | None
    prediction: str | None
    goodness: float | None
    loss: float | None
    payload: Any
    kind: str
    caption: str | None
    has_classes: bool

    @property
    def is_right(self) -> bool | None:
        """Whether the model predicts the label; ``None`` if there is no prediction, no label, or no classes."""
        known = self.has_classes and self.label is not None and self.prediction
        return self.label == self.prediction if known else None

    @property
    def error(self) -> float | None:
        """Prediction minus label, in its unit and as they are written out; ``None`` where labels are classes."""
        if self.has_classes or not self.label or not self.prediction:
            return None
        found, wanted = (_NUMBER.match(text) for text in (self.prediction, self.label))
        return float(found[0]) - float(wanted[0]) if found and wanted else None
