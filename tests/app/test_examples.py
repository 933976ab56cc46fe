"""Examples in words: classes are right or wrong, numbers are off by something, and no label is an empty one."""

from __future__ import annotations

import pytest

from app.shared.pictures import alt_text, label_text, mark_text
from app.views.explorer.browser import presets_json
from tda_backend.interfaces.reading.records.examples import Example
from tda_backend.interfaces.reading.records.selections import Selection


def example(label: str, prediction: str | None, has_classes: bool) -> Example:
    return Example(0, 7, label, prediction, -0.48, 0.1, "x", "text", None, has_classes)


def test_a_class_is_right_or_wrong():
    assert example("3", "3", True).is_right is True
    wrong = example("3", "5", True)
    assert (wrong.is_right, wrong.error) == (False, None)
    assert mark_text(wrong) == "3 → 5"
    assert alt_text(wrong, "query") == "query 7: label 3, predicted 5, goodness −0.5"


@pytest.mark.parametrize(
    ("label", "prediction", "error", "mark"),
    [("34.57 MPa", "26.57 MPa", -8.0, "34.57 MPa (−8.00)"), ("-1.2e+02", "-119", 1.0, "-1.2e+02 (1.00)")],
)
def test_a_regression_is_off_by_something_and_never_wrong(label, prediction, error, mark):
    found = example(label, prediction, False)
    assert found.is_right is None
    assert found.error == pytest.approx(error)
    assert mark_text(found) == mark
    assert f"predicted {prediction}, error " in alt_text(found, "query")


def test_a_text_without_a_label_has_none():
    found = example("", "", False)
    assert (found.is_right, found.error) == (None, None)
    assert mark_text(found) == ""
    assert alt_text(found, "query") == "query 7: goodness −0.5"


@pytest.mark.parametrize(("label", "text"), [("cat", "cat"), (" ", "' '"), ("\n", r"'\n'"), ("a b", "a b"), (None, "")])
def test_labels_that_do_not_show_stand_in_quotes(label, text):
    assert label_text(label) == text


def test_presets_are_called_what_they_set():
    found = presets_json(Selection("a", 0.5, 2.2e-10, 0.5, 0.3, 0.0263, 0.412, 0.1, 0.2, [], ()))
    assert [(each["label"], each["value"]) for each in found] == [
        ("λ = 0", 0.0),
        ("λ* 2.2e-10", 2.2e-10),
        ("best λ 0.0263", 0.0263),
    ]
