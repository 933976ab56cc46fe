"""Typed records as a data frame, for people and files: the inverse of :func:`base.records`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, get_type_hints

import numpy as np
import pandas as pd

from tda_backend.interfaces.reading.records.base import Kind


def frame_of(rows: Sequence[Kind], kind: type[Kind]) -> pd.DataFrame:
    """Return records as a frame, a column a field; its columns are there without any record too.

    Whole numbers that may be missing become ``Int64``, others that may be missing float64 with NaN.
    """
    hints = get_type_hints(kind)
    columns: dict[str, Any] = {}
    for field in fields(kind):  # type: ignore[arg-type]  # "a dataclass" is no type
        values = [getattr(row, field.name) for row in rows]
        whole, real = hints[field.name] == int | None, hints[field.name] == float | None
        columns[field.name] = pd.array(values, "Int64") if whole else np.array(values, float) if real else values
    return pd.DataFrame(columns)
