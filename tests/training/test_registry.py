"""From the text after --task to a task, with one clear line for each way it can go wrong."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import tda_backend
from tda_backend.errors import TaskError, UsageError
from tda_backend.interfaces.reading.study import open_study
from tda_backend.models import tasks
from tda_backend.models.checking.check import check_task
from tda_backend.models.tasks.registry import BUILT_IN, load_task, task_folder, task_spec
from tda_backend.models.training.retraining.plan import Retraining

ROOT = Path(__file__).resolve().parents[2]

GOOD = """
    from tests.training.tiny import TinyTask
    class Mine(TinyTask):
        name = "mine"
    ready = Mine()
    def factory():
        return Mine()
    def fails():
        raise KeyError("weights")
    def number():
        return 3
    class Unnamed(TinyTask):
        name = "Has Spaces"
    class Settingless(TinyTask):
        name = "settingless"
        def __init__(self):
            self.training = None
    class Signless(TinyTask):
        measurement_sign = 0
    class Texts(TinyTask):
        def __init__(self):
            super().__init__(num_epochs="2")
    class Dictionary(TinyTask):
        def __init__(self):
            self.training = {"num_epochs": 2}
"""


def written(tmp_path, text):
    path = tmp_path / "mine.py"
    path.write_text(textwrap.dedent(text))
    return path


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_built_in_tasks_have_their_name_and_spec(name):
    task = load_task(name)
    assert task.name == name
    assert task_spec(task) == name


@pytest.mark.parametrize("name", ["factory", "Mine", "ready"])
def test_a_file_gives_its_task(tmp_path, name):
    path = written(tmp_path, GOOD)
    before = list(sys.path)
    task = load_task(f"{path}:{name}")
    assert task.name == "mine"
    assert task_spec(task) == f"{path}:{name}"
    assert sys.path == before
    assert "class Mine" in task.source()


OLD_ADDRESSES = """
    import torch
    from torch import nn
    from tda_backend.errors import TaskError
    from tda_backend.training.tasks import ClassificationTask, MnistLR, RegressionTask, margin
    from tda_backend.types import Batch, Display, Stage, Task, TrainingSettings

    class Mine(ClassificationTask):
        name = "mine"
        num_classes = 2
        training = TrainingSettings(num_epochs=2, batch_size=4, learning_rate=0.1)
        def datasets(self) -> dict[str, Batch]:
            y = torch.arange(12) % 2
            rows = {"x": y[:, None] + torch.linspace(-1, 1, 24).reshape(12, 2), "y": y}
            return {"train": rows, "test": rows}
        def build_model(self, seed):
            torch.manual_seed(seed)
            return nn.Linear(2, 2)

    class Digits(MnistLR):
        name = "digits"
"""
"""What people's own files import since the first version: these addresses stay."""


def test_own_files_may_name_the_old_addresses(tmp_path):
    path = written(tmp_path, OLD_ADDRESSES)
    task = load_task(f"{path}:Mine")
    assert isinstance(task, tasks.ClassificationTask)
    assert all(row.passed for row in check_task(task))
    assert isinstance(load_task(f"{path}:Digits"), tasks.built_in.images.MnistLR)
    assert tda_backend.open_study is open_study


def test_an_edited_file_is_loaded_afresh(tmp_path):
    path = written(tmp_path, GOOD)
    load_task(f"{path}:Mine")
    path.write_text(path.read_text().replace('"mine"', '"other"'))
    assert load_task(f"{path}:Mine").name == "other"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("mnist-mpl", 'Did you mean "mnist-mlp"'),
        ("nothing", "Built-in tasks: concrete-linear, .*mnist-mlp, mnist-mlp-512"),
        (":factory", "no built-in task"),
        ("module:", "no built-in task"),
    ],
)
def test_unknown_names_list_what_is_allowed(spec, words):
    with pytest.raises(UsageError, match=words) as caught:
        load_task(spec)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("absent", 'the module has no "absent". It offers: .*Mine'),
        ("fails", r"KeyError: 'weights' \(line 9\)"),
        ("number", "returned a int, not a Task"),
        ("Unnamed", "has the name 'Has Spaces'"),
        ("Settingless", "neither training settings nor checkpoint_files"),
        ("Signless", "measurement_sign"),
        ("Texts", "training.num_epochs of task \"tiny\" is '2'"),
        ("Dictionary", 'training of task "tiny" is a dict'),
    ],
)
def test_factories_that_cannot_be_used(tmp_path, name, words):
    with pytest.raises(TaskError, match=words):
        load_task(f"{written(tmp_path, GOOD)}:{name}")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1\nraise RuntimeError('boom')\n", r"RuntimeError: boom \(line 2\)"),
        ("import not_a_module_at_all\n", r"ModuleNotFoundError: .*not_a_module_at_all.* \(line 1\)"),
        ("def broken(:\n", r"SyntaxError: .* \(line 1\)"),
        ("raise SystemExit('stop')\n", "SystemExit: stop"),
    ],
)
def test_a_file_that_fails_to_import_gives_one_line(tmp_path, text, words):
    path, before = written(tmp_path, text), set(sys.modules)
    with pytest.raises(TaskError, match=words) as caught:
        load_task(f"{path}:factory")
    assert "\n" not in str(caught.value)
    assert set(sys.modules) == before


def test_missing_files_and_modules(tmp_path):
    with pytest.raises(TaskError, match="There is no task file"):
        load_task(f"{tmp_path / 'absent.py'}:factory")
    with pytest.raises(TaskError, match="ModuleNotFoundError"):
        load_task("not_a_package.tasks:factory")


MODULE = """
    import torch
    from tests.training.tiny import NormTask
    def big():
        from two_neighbour import NAME
        class Big(NormTask):
            name = NAME
        return Big(torch.float32)
"""


@pytest.fixture
def two(tmp_path, monkeypatch):
    """A module in a folder of its own, which is the current folder but not on the path: as for a console script."""
    (tmp_path / "two.py").write_text(textwrap.dedent(MODULE))
    (tmp_path / "two_neighbour.py").write_text('NAME = "big"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(ROOT), *(path for path in sys.path if path not in ("", str(ROOT)))])
    yield tmp_path
    for name in ("two", "two_neighbour"):
        sys.modules.pop(name, None)


def test_a_module_in_the_current_folder_gives_its_task(two):
    before = list(sys.path)
    task = load_task("two:big")
    assert (task.name, task_spec(task), task_folder(task)) == ("big", "two:big", str(two))
    assert sys.path == before


def test_training_processes_find_that_module_from_any_folder(two, monkeypatch, tmp_path_factory):
    from tda_backend.models.tasks.data import validate_data
    from tda_backend.models.training.retraining.processes import close_pool, num_warm_processes
    from tda_backend.models.training.retraining.retraining import retrain_subsets
    from tda_backend.models.training.retraining.subsets import subset_masks
    from tests.training.tiny import NUM_TRAIN

    task, masks = load_task("two:big"), subset_masks(NUM_TRAIN, 0.5, 2, 0)
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    found = []
    try:
        for num_processes in (2, 1):
            found.append(
                retrain_subsets(
                    Retraining(task, validate_data(task), range(NUM_TRAIN), masks, [0, 1], repeats=1, seed=0),
                    num_processes=num_processes,
                )
            )
            if num_processes == 2:
                assert num_warm_processes() == 2
    finally:
        close_pool()
    np.testing.assert_array_equal(found[0], found[1])


def test_the_console_script_finds_a_module_in_the_current_folder(two):
    script = Path(sys.executable).with_name("tda")
    if not script.exists():
        pytest.skip("the package is not installed here")
    # PYTHONPATH for tests.training.tiny alone
    done = subprocess.run(
        [script, "check", "two:big"],
        cwd=two,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "No module named" not in done.stdout + done.stderr
    assert "parameters; the seed decides them" in done.stdout
