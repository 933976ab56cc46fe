"""What ``show()``, ``predict()`` and class names of a person's task may do wrong ends in one clear line."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tda_backend.errors import TaskError
from tda_backend.studies.steps.examples import display_row, label_text
from tda_backend.types import Display
from tests.training.tiny import TinyTask


def raising() -> Display:
    raise ValueError("boom")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (raising, r"show\('train', 3\) of task \"tiny\" fails: ValueError: boom"),
        (lambda: None, "returns a NoneType"),
        (lambda: "a text", "returns a str"),
        (lambda: Display("text", caption=3), "caption .* is a int"),
        (lambda: Display("text", text=None), "text .* is a NoneType"),
        (lambda: Display("row", row=[1, 2]), r"show\('train', 3\) .* fails: TypeError"),
        (lambda: Display("image", image=np.zeros((4, 4))), "no uint8"),
        (lambda: Display("image", image=[[0]]), "fails: AttributeError"),
    ],
)
def test_a_broken_show_is_one_line_that_names_it(answer, words: str):
    class Shown(TinyTask):
        def show(self, split, index):
            return answer()

    with pytest.raises(TaskError, match=words) as caught:
        display_row(Shown(), "train", 3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [torch.tensor(3), torch.tensor(-1), torch.tensor(float("nan"))])
def test_a_predicted_class_that_does_not_exist_is_named(value: torch.Tensor):
    task = TinyTask()
    task.class_names = ("a", "b", "c")
    assert label_text(task, torch.tensor(2)) == "c"
    with pytest.raises(TaskError, match="gives the class"):
        label_text(task, value)
