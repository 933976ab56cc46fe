"""A view and its URL are the same thing; what does not exist is replaced by the nearest, and said."""

from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.formats import (
    count_text,
    duration_text,
    lds_text,
    parse_regularization,
    plain,
    rate_text,
    regularization_text,
    variant_of,
)  # fmt: skip
from app.state import View, at_configuration, nearest, parse, to_params

words = st.text(
    st.characters(codec="utf-8", exclude_characters="|", exclude_categories=("Cs",)), min_size=1, max_size=8
)
views = st.builds(
    View,
    study=words, method=words, epoch=st.none() | st.integers(0, 999), k=st.sampled_from(["", "none", "128", "2048"]),
    lam=st.none() | st.floats(0, 1e6, allow_subnormal=False).map(lambda value: float(f"{value:.6g}")),
    query=st.none() | st.integers(0, 10**6), classes=st.lists(words, max_size=4).map(tuple),
    right=st.sampled_from(["", "right", "wrong"]), pick=st.sampled_from(["all", "wrong", "margin"]),
    pick_class=st.just("") | words, alpha=st.none() | st.sampled_from([0.25, 0.5]),
    xi=st.sampled_from([0.3, 0.5, 0.65]),
)  # fmt: skip


@given(views)
def test_a_view_survives_its_url(view):
    again, notes = parse(to_params(view))
    assert again == view
    assert not notes


@pytest.mark.parametrize(
    ("name", "text"),
    [("epoch", "late"), ("k", "many"), ("lam", "-1"), ("lam", "nan"), ("lam", "<b>"), ("query", "-3"), ("query", "1.5"),
     ("right", "maybe"), ("pick", "x"), ("alpha", "2"), ("xi", "7")],
)  # fmt: skip
def test_a_value_that_cannot_be_read_falls_back_and_is_named(name, text):
    view, notes = parse({name: text})
    assert view == View()
    assert len(notes) == 1
    assert name in notes[0]
    assert text in notes[0]


def table() -> pd.DataFrame:
    rows = [("iffim", 1, 128, 0.2), ("iffim", 5, 128, 0.3), ("iffim", 5, None, 0.4), ("trak", 20, None, 0.1),
            ("trak", 5, 512, 0.25)]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["variant", "training_epoch", "projection_dim", "best_lds"])
    frame["projection_dim"] = frame["projection_dim"].astype("Int64")
    return frame.assign(variant_title=frame["variant"].str.upper(), configuration_id=[*"abcde"])


def test_an_exact_configuration_is_found_without_a_word():
    row, note = nearest(table(), View(method="iffim", epoch=5, k="128"))
    assert (row["configuration_id"], note) == ("b", "")
    assert at_configuration(View(), row) == View(method="iffim", epoch=5, k="128")


def test_nothing_chosen_means_the_best():
    assert nearest(table(), View())[0]["configuration_id"] == "c"
    assert nearest(table(), View(method="trak"))[0]["configuration_id"] == "e"


def test_a_missing_combination_gives_the_nearest_and_says_so():
    row, note = nearest(table(), View(method="iffim", epoch=1, k="none"))
    assert row["configuration_id"] in "ac"
    assert "epoch 1" in note
    assert "nearest" in note


def test_what_was_just_chosen_holds():
    row, note = nearest(table(), View(method="trak", epoch=5, k="none"), pinned="k")
    assert row["configuration_id"] == "d"
    assert "epoch 20" in note
    assert nearest(table(), View(method="trak", epoch=5, k="none"), pinned="epoch")[0]["configuration_id"] == "e"


def test_an_unknown_method_is_named_with_the_known_ones():
    _, note = nearest(table(), View(method="magic", epoch=5, k="128"))
    assert "'magic'" in note
    assert "iffim, trak" in note


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1e-7, "1e-7"), (3.4567e-4, "3.46e-4"), (0.0354, "0.0354"), (0.99999, "1"), (10, "10"), (1234, "1230"),
     (None, "–")],
)  # fmt: skip
def test_regularization_is_written_with_three_digits(value, text):
    assert regularization_text(value) == text


@pytest.mark.parametrize(("text", "value"), [("1e-3", 1e-3), (" 0,5 ", 0.5), ("0", 0.0), ("-1", None), ("inf", None)])
def test_a_typed_regularization_is_read_or_refused(text, value):
    assert parse_regularization(text) == value


def test_numbers_are_written_as_people_read_them():
    assert lds_text(0.41234, 0.381, -0.02) == "0.412 (0.381 to −0.020)"
    assert duration_text(59.6) == "1 min 0 s"
    assert duration_text(4000) == "1 h 6 min"
    assert rate_text(12.34) == "12/s"
    assert count_text(5000, "query", "queries") == "5\u202f000 queries"
    assert plain("<b>*x*</b> [y](z) $1$") == r"\<b\>\*x\*\</b\> \[y\]\(z\) \$1\$"
    assert variant_of("tracin", {"normalization": True, "epochs": [1]}) == "tracin-normalization"
    assert variant_of("tracin", {"normalization": False, "epochs": [1]}) == "tracin"
