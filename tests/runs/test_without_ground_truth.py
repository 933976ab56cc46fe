"""A trained model without ground truth: its grid of λ follows its spectrum, and rules choose λ, epoch and dimension."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tda_backend.interfaces.reading.study import Study, open_study
from tda_backend.models.tasks.registry import load_task
from tda_backend.numerics.evaluation.selection import WantedGrid, spectrum_scale
from tda_backend.studies.study.file import embedded_studies, read_study_file, resolve
from tests.runs.conftest import TASK

EPOCHS = {1: 0, 2: 25, 3: 80, 4: 240}
"""Checkpoint → steps of gradient descent before it; the first is nearly untrained."""
GIVEN = TASK.replace(
    "training = TrainingSettings(num_epochs=4, batch_size=16, learning_rate=0.1, momentum=0.9)",
    "training = None\n    margin_identity = False\n"
    "    checkpoint_files = tuple(Path(__file__).with_name(f'{number}.pt') for number in (1, 2, 3, 4))\n\n"
    "    def train_loss(self, model, batch):\n        return FACTOR * super().train_loss(model, batch)\n",
).replace("import torch\n", "from pathlib import Path\n\nimport torch\n\nFACTOR = 1.0\n", 1)
STUDY = """
name = "given"
task = "given.py:factory"
seed = 2
[data]
train = 60
validation = 12
queries = 10
[training]
epochs = [1, 2, 3, 4]
[ground_truth]
subsets = 0
[methods.iffim]
projection_dim = [8, "none"]
"""


def write(folder: Path, factor: float = 1.0, more: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "given.py").write_text(GIVEN.replace("FACTOR = 1.0", f"FACTOR = {factor!r}"))
    (folder / "given.toml").write_text(STUDY + more)
    (folder / "plain.py").write_text(TASK)
    task = load_task(f"{folder / 'plain.py'}:factory")
    data, model = task.datasets()["train"], task.build_model(7)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    for step in range(max(EPOCHS.values()) + 1):
        for number in (number for number, at in EPOCHS.items() if at == step):
            torch.save(model.state_dict(), folder / f"{number}.pt")
        optimizer.zero_grad()
        task.train_loss(model, data).mean().backward()
        optimizer.step()
    return folder / "given.toml"


def computed(folder: Path, cli: Any, factor: float = 1.0, more: str = "") -> Study:
    path = write(folder, factor, more)
    status, out, err = cli("run", path, "--db", folder / "c.duckdb")
    assert status == 0, out + err
    return open_study("given", folder / "c.duckdb")


def printed(cli: Any, *words: Any) -> Any:
    status, out, err = cli(*words)
    assert status == 0, out + err
    return json.loads(out)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Study:
    from tda_backend.interfaces.cli.main import main

    folder = tmp_path_factory.mktemp("given")
    assert main(["run", str(write(folder)), "--db", str(folder / "c.duckdb")]) == 0
    return open_study("given", folder / "c.duckdb")


def losses_by_hand(study: Study) -> dict[int, float]:
    """Return the mean loss on the validation points at each checkpoint, and 0 → before training."""
    folder = study.workspace.folder
    task = load_task(f"{folder / 'given.py'}:factory")
    rows = torch.as_tensor(study.examples("validation")["index"].to_numpy(copy=True), dtype=torch.long)
    batch = {key: value[rows] for key, value in task.datasets()["test"].items()}
    found = {}
    for number in EPOCHS:
        model = task.build_model(0)
        model.load_state_dict(torch.load(folder / f"{number}.pt"))
        found[number] = float(task.train_loss(model, batch).mean().detach())
    return found


def test_the_epoch_rule_chooses_without_ground_truth(given: Study, cli):
    losses = losses_by_hand(given)
    assert losses[1] > losses[2] > losses[3]
    start, lowest = losses[1], min(losses.values())  # the first checkpoint is hardly trained
    expected = next(epoch for epoch, loss in losses.items() if start - loss >= 0.9 * (start - lowest))
    rows = given.tuning()
    epochs = rows[rows["what"] == "training_epoch"]
    assert set(epochs["rule"]) == {"last", "lowest-loss", "progress"}
    assert set(epochs[epochs["rule"] == "progress"]["chosen"]) == {str(expected)}
    assert set(epochs[epochs["rule"] == "last"]["chosen"]) == {"4"}
    assert set(rows[rows["what"] == "projection_dim"]["chosen"]) == {"none"}
    assert rows["lds"].isna().all()
    selected = printed(cli, "select", "given", "--json", "--db", given.workspace.catalogue)
    assert all(row["lambda_selected"] > 0 for row in selected)
    assert all(row["lds_selected"] is None for row in selected)
    for row in selected:
        assert ("training_epoch: progress" in row["chosen_by"]) == (row["training_epoch"] == expected)
        assert ("projection_dim: widest" in row["chosen_by"]) == (row["projection_dim"] is None)
    shown = printed(cli, "show", "given", "--json", "--db", given.workspace.catalogue)
    assert shown["chosen_by"] == {row["configuration_id"]: row["chosen_by"] for row in selected if row["chosen_by"]}


def test_the_command_line_says_what_was_chosen(given: Study, cli):
    for verb in ("select", "show"):
        status, out, _ = cli(verb, "given", "--db", given.workspace.catalogue)
        assert status == 0
        assert "chosen without retraining" in out
        assert "progress" in out


def test_the_page_draws_the_rules_without_regret(given: Study):
    from app.views.selection.tuning import tuned_rules
    from tda_backend.interfaces.reading.records.base import records
    from tda_backend.interfaces.reading.records.selections import TuningRow

    table = tuned_rules(records(given.tuning(), TuningRow))
    assert "mean regret" not in table.columns
    assert set(table["choosing"]) == {"training epoch", "projection dimension k"}


@pytest.mark.parametrize("factor", [1e6, 1e-6])
def test_another_scale_of_the_loss_gives_the_same_picture(given: Study, tmp_path: Path, cli, factor: float):
    other = computed(tmp_path / "scaled", cli, factor)
    square = factor**2
    pairs = zip(given.configurations()["configuration_id"], other.configurations()["configuration_id"], strict=True)
    for left, right in pairs:
        before, after = (study.indicator_curve(name) for study, name in ((given, left), (other, right)))
        before, after = (curve[~curve["is_selected"]] for curve in (before, after))
        np.testing.assert_allclose(after["regularization"], before["regularization"] * square, rtol=1e-3)
        first, second = given.selection(left), other.selection(right)
        if first["projection_dim"] is None:  # rounding may turn the draw of a projection
            np.testing.assert_allclose(after["mean"], before["mean"], atol=2e-3)
            assert second["lambda_selected"] == pytest.approx(first["lambda_selected"] * square, rel=1e-2)
            grid = before["regularization"].to_numpy()
            assert grid[1] < first["lambda_selected"] < grid[-1]
            assert first["warnings"] == second["warnings"] == []
        first, second = (study.source(name) for study, name in ((given, left), (other, right)))
        assert spectrum_scale(second) == pytest.approx(spectrum_scale(first) * square)
    assert other.info["regularizations"] == pytest.approx([v * square for v in given.info["regularizations"]], rel=1e-6)


def test_ranks_are_the_same_at_the_same_places_of_the_grid(given: Study, tmp_path: Path, cli):
    other = computed(tmp_path / "scaled", cli, 1e6)
    grids = [
        study.indicator_curve(study.configurations()["configuration_id"].iloc[-1]).query("not is_selected")
        for study in (given, other)
    ]
    for left, right in list(zip(*(grid["regularization"] for grid in grids), strict=True))[8::8]:
        first = given.top_examples("iffim", 0, 5, left, None, 4)
        second = other.top_examples("iffim", 0, 5, right, None, 4)
        assert first["position"].tolist() == second["position"].tolist()


def test_an_absolute_grid_is_kept_and_said_to_end_too_early(tmp_path: Path, cli):
    grid = "[regularization]\nlow = 1e-7\nhigh = 10.0\n"
    study = computed(tmp_path / "absolute", cli, 1e-6, grid)
    assert min(value for value in study.info["regularizations"] if value > 0) == pytest.approx(1e-7)
    selections = study.selections().query("num_crossings > 0")
    assert len(selections) >= 4
    assert (selections["lambda_selected"] < 1e-7).all()
    assert all("lower end of the λ grid" in " ".join(notes) for notes in selections["warnings"])
    status, out, _ = cli("select", "given", "--db", study.workspace.catalogue)
    assert status == 0
    assert "set regularization.relative = true" in " ".join(out.split())


def test_the_default_grid_is_relative_and_a_written_one_is_not():
    plain = {"name": "a", "task": "mnist-lr", "training": {"epochs": [1]}}
    assert resolve(plain).regularization.relative
    assert resolve({**plain, "regularization": {"count": 5}}).regularization.relative is None
    assert resolve({**plain, "regularization": {"relative": False}}).to_json()["regularization"] == {
        "include_zero": True,
        "low": 1e-7,
        "high": 10.0,
        "count": 32,
    }
    assert WantedGrid([0.0, 2.0]).of([]) == [0.0, 2.0]


def test_shipped_studies_write_their_grid():
    for path in embedded_studies().values():
        assert resolve(read_study_file(path)).regularization.relative is None


def test_relative_grids_a_power_of_ten_apart_share_their_lambda():
    values = [10 ** (-6 + place / 3) for place in range(19)]  # three values a decade
    found = [
        WantedGrid(values, True).of([SimpleNamespace(eigenvalues=np.array([scale]))])  # type: ignore[list-item]
        for scale in (1e-7, 1e-4, 1e-3, 10.0)
    ]
    assert [len({*found[0], *grid}) for grid in found[1:]] == [19 + 9, 19 + 12, 19 + 19]
    assert WantedGrid([1 / 3]).of([]) == [1 / 3]
