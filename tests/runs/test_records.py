"""Rows of a frame as typed records: missing values, types, columns that are too many or too few."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest

from tda_backend.interfaces.reading.records.base import is_missing, record, records
from tda_backend.interfaces.reading.records.selections import selection_of


@dataclass(frozen=True)
class Row:
    """A row with a field of every kind."""

    name: str
    count: int
    dim: int | None
    value: float
    low: float | None
    flag: bool
    parts: list[str]


def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "name": ["a", "b"],
            "count": np.array([1.0, 2.0]),
            "dim": pd.array([8, None], dtype="Int64"),
            "value": [0.5, float("nan")],
            "low": [None, 0.25],
            "flag": np.array([1, 0]),
            "parts": [["x"], []],
            "more": [0, 0],
        }
    )


def test_rows_have_the_types_of_their_fields():
    first, second = records(frame(), Row)
    assert first == Row("a", 1, 8, 0.5, None, True, ["x"])
    assert [type(value) for value in vars(first).values()] == [str, int, int, float, type(None), bool, list]
    assert second.dim is None
    assert math.isnan(second.value)
    assert (second.low, second.flag, second.parts) == (0.25, False, [])


def test_an_empty_frame_has_no_records_but_its_columns():
    assert records(frame().iloc[:0], Row) == []
    with pytest.raises(KeyError, match="dim"):
        records(frame().drop(columns="dim").iloc[:0], Row)


def test_a_missing_value_is_refused_where_one_is_needed():
    with pytest.raises(ValueError, match=r"Row\.count"):
        records(frame().assign(count=[1.0, float("nan")]), Row)


def test_a_dict_is_one_row():
    assert record(frame().iloc[0].to_dict(), Row) == records(frame(), Row)[0]
    with pytest.raises(KeyError, match="parts"):
        record(dict.fromkeys(("name", "count", "dim", "value", "low", "flag"), 0), Row)


def test_only_single_values_are_missing():
    assert [is_missing(value) for value in (None, float("nan"), pd.NA, pd.NaT, np.float64("nan"))] == [True] * 5
    assert not any(is_missing(value) for value in (0, "", [], [float("nan")], np.zeros(2), False))


def test_the_quantiles_of_a_selection_are_typed():
    row = dict.fromkeys(("xi_at_selected", "lds_selected", "lambda_best", "lds_best", "regret", "lds_at_zero"))
    row |= {"configuration_id": "a", "threshold": 0.5, "lambda_selected": 0.1, "warnings": ["low end"]}
    found = selection_of(row | {"quantiles": {"0.5": {"lambda": 1e-3, "lds": None, "regret": 0.1}}})
    assert found is not None
    assert (found.quantiles[0].share, found.quantiles[0].regularization, found.quantiles[0].lds) == (0.5, 1e-3, None)
    assert selection_of({}) is None
