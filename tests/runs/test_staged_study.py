"""A study of a task in two stages and one of a regression, from the file to the numbers."""

from __future__ import annotations

import numpy as np

from tda_backend.interfaces.cli.main import main
from tda_backend.interfaces.reading.study import open_study
from tda_backend.models.tasks.registry import load_task
from tda_backend.studies.store.workspace import Workspace

TASK = """
import torch
from torch import nn
from tda_backend.models.tasks import ClassificationTask
from tda_backend.types import Stage, TrainingSettings


def blobs(num, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num) % 3
    return {"x": torch.eye(3, 6)[labels] * 2 + torch.randn(num, 6, generator=generator), "y": labels}


class Staged(ClassificationTask):
    name = "staged"
    num_classes = 3
    training = TrainingSettings(num_epochs=6, batch_size=16, learning_rate=0.1, momentum=0.9)
    stages = (Stage("first", 4), Stage("second", 2, 0.05))

    def datasets(self):
        train, test = blobs(90, 1), blobs(48, 2)
        train["stage"] = (torch.arange(90) % 5 == 4).long()
        test["stage"] = torch.ones(48, dtype=torch.int64)
        return {"train": train, "test": test}

    def build_model(self, seed):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


def factory():
    return Staged()
"""
STUDY = """
name = "NAME"
task = "TASK"
[data]
train = NUMBER
validation = 12
queries = 10
[training]
epochs = [EPOCH]
[ground_truth]
subsets = 24
alphas = [ALPHA]
[regularization]
count = 6
[methods.iffim]
projection_dim = "none"
METHODS
[evaluation]
bootstrap = 50
"""


def computed(folder, **values: str):
    text = STUDY
    for key, value in values.items():
        text = text.replace(key.upper(), value)
    (folder / "study.toml").write_text(text)
    db = folder / "workspace" / "catalogue.duckdb"
    assert main(["run", str(folder / "study.toml"), "--db", str(db)]) == 0
    return open_study(values["name"], Workspace.at(db))


def test_subsets_and_source_know_the_stages(tmp_path):
    (tmp_path / "staged_task.py").write_text(TASK)
    study = computed(
        tmp_path,
        name="staged",
        task="staged_task.py:factory",
        epoch="6",
        number="60",
        alpha="0.5",
        methods="[methods.source]\nepochs = 6\nnum_segments = 2\nnum_checkpoints = 2\n[methods.trak]\n"
        'projection_dim = "none"\nhalf_subset_models = 2',
    )
    task = load_task(str(tmp_path / "staged_task.py") + ":factory")
    examples = study.examples("train")
    second = task.datasets()["train"]["stage"].numpy()[examples["index"].to_numpy()] == 1
    masks = study.subset_masks()
    assert 0 < second.sum() < 60
    assert masks[:, second].all()
    assert (masks[:, ~second].sum(axis=1) == int((~second).sum() * 0.5 + 0.5)).all()
    table = study.lds_table()
    assert {"source", "iffim", "trak"} <= set(table["method"])
    assert np.isfinite(table["mean"]).all()


def test_a_regression_at_its_optimum_is_explained_by_influence(tmp_path):
    """The sanity row: at the exact optimum, IF with the Hessian at λ = weight decay ranks subsets nearly perfectly."""
    study = computed(
        tmp_path,
        name="ridge",
        task="concrete-linear-optimum",
        epoch="1",
        number="400",
        alpha="0.9",
        methods='[methods.if-explicit]\ncurvature = "hessian"\nprojection_dim = "none"',
    )
    table = study.lds_table()
    rows = table[table["method"] == "if-explicit"]
    assert rows["mean"].max() > 0.95
    assert " MPa" in study.examples("train")["label"].iloc[0]
