"""From a data frame to a list of typed records: one frozen dataclass per kind of row, its fields are the columns."""

from __future__ import annotations

import math
import types
from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import pandas as pd

Kind = TypeVar("Kind")
_SCALARS = (bool, int, float)


def is_missing(value: Any) -> bool:
    """Return whether a single value is None, NaN, NaT or NA; a list or an array never is."""
    return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and math.isnan(value))


def records(frame: pd.DataFrame, kind: type[Kind]) -> list[Kind]:
    """Return one record per row.

    A missing value becomes ``None`` where the field allows it, NaN in a ``float`` field. Numbers are converted to the
    field's type, and columns that no field names are left out.

    Args:
        frame: The rows.
        kind: A frozen dataclass; each field is the column of the same name.

    Raises:
        KeyError: A column is missing.
        ValueError: A value is missing where the field needs one.
    """
    columns = [
        _column(kind, name, frame[name].tolist(), hint) for name, hint in _fields(kind, frame.columns.tolist()).items()
    ]
    return [kind(*values) for values in zip(*columns, strict=True)]


def record(row: Mapping[str, Any], kind: type[Kind]) -> Kind:
    """Return the record of one row that is a dict, by the rules of :func:`records`."""
    return kind(*(_column(kind, name, [row[name]], hint)[0] for name, hint in _fields(kind, row).items()))


def _fields(kind: type, present: Collection[str]) -> dict[str, Any]:
    """Return the name and type of each field.

    Raises:
        KeyError: One of them is not there.
    """
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind)]
    lacking = [name for name in names if name not in present]
    if lacking:
        raise KeyError(f"{kind.__name__} needs the columns {', '.join(lacking)}.")
    return {name: hints[name] for name in names}


def _column(kind: type, name: str, values: list[Any], hint: Any) -> list[Any]:
    """Return a column's values with the field's type."""
    several = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    allows_none = type(None) in several
    plain = next((each for each in several if each in _SCALARS), None)
    return [_value(kind, name, value, plain, allows_none) for value in values]


def _value(kind: type, name: str, value: Any, plain: type | None, allows_none: bool) -> Any:
    if is_missing(value):
        if allows_none:
            return None
        if plain is float:
            return float("nan")
        raise ValueError(f"{kind.__name__}.{name} has no value in a row where it needs one.")
    return value if plain is None else plain(value)
