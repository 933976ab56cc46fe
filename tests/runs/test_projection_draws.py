"""``projection.draws``: several projections of each projected configuration, their noise in its interval."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tda_backend.interfaces.reading.study import Study, open_study
from tda_backend.models.tasks.registry import load_task
from tda_backend.studies.config.study import ProjectionSettings
from tda_backend.studies.pipeline.facts import task_facts
from tda_backend.studies.runs.planning import build_plan
from tda_backend.studies.study.file import read_study_file, resolve
from tests.runs.conftest import TASK

DRAWS = 3
STUDY = """
name = "drawn"
task = "tiny_task.py:factory"
seed = 3
[data]
train = 60
validation = 12
queries = 10
[training]
epochs = [4]
[ground_truth]
subsets = 24
[regularization]
low = 1e-4
high = 10.0
count = 5
[projection]
kind = "KIND"
[methods.iffim]
projection_dim = [6, "none"]
[methods.tracin]
projection_dim = [6]
[evaluation]
bootstrap = 100
"""


def run(folder: Path, cli: Any, kind: str, *settings: str) -> Study:
    folder.mkdir()
    (folder / "tiny_task.py").write_text(TASK)
    (folder / "drawn.toml").write_text(STUDY.replace("KIND", kind))
    words = [word for setting in settings for word in ("--set", setting)]
    status, out, err = cli("run", folder / "drawn.toml", "--db", folder / "c.duckdb", *words)
    assert status == 0, out + err
    return open_study("drawn", folder / "c.duckdb")


def curves(study: Study) -> dict[str, Any]:
    """Return label → LDS on the grid."""
    rows = study.configurations()
    found = {label: study.curve(name) for label, name in zip(rows["label"], rows["configuration_id"], strict=True)}
    return {label: curve[~curve["is_selected"]] for label, curve in found.items()}


@pytest.mark.parametrize("kind", ["gaussian", "rademacher"])
def test_the_lds_is_the_mean_over_the_draws_and_its_interval_holds_them(tmp_path: Path, cli, kind: str):
    settings = ProjectionSettings(kind=kind, max_dim=6, draws=DRAWS)
    seeds = [settings.drawn(number).seed for number in range(DRAWS)]
    assert len(set(seeds)) == DRAWS
    alone = [run(tmp_path / f"alone-{seed}", cli, kind, f"projection.seed={seed}") for seed in seeds]
    together = run(tmp_path / "together", cli, kind, f"projection.draws={DRAWS}")
    found, single = curves(together), [curves(study) for study in alone]
    for label, curve in found.items():
        means = np.stack([each[label]["mean"] for each in single])
        np.testing.assert_allclose(curve["mean"], means.mean(axis=0), atol=1e-6)
        widths = curve["ci_high"] - curve["ci_low"]
        own = [each[label]["ci_high"] - each[label]["ci_low"] for each in single]
        if "k=6" in label:
            assert means.std(axis=0).min() > 0
            assert widths.mean() > np.mean(own)
        else:
            np.testing.assert_allclose(widths, own[0], atol=1e-6)
    for study in (together, alone[0]):  # scores are those of the first draw, of nothing else
        assert len(study.eigenvalues(study.configurations()["configuration_id"].iloc[0])) == 6
    assert together.scores("iffim", 0.1, 6).tolist() == alone[0].scores("iffim", 0.1, 6).tolist()


def test_the_noise_is_said_where_the_intervals_stand(tmp_path: Path, cli):
    for draws, words in ((1, "rest on one draw of the projection"), (2, "is the mean over 2 draws")):
        study = run(tmp_path / str(draws), cli, "gaussian", f"projection.draws={draws}")
        for verb in ("select", "show"):
            status, out, err = cli(verb, "drawn", "--db", study.workspace.catalogue)
            assert status == 0, err
            assert words in " ".join(out.split())
        status, out, err = cli("show", "drawn", "--json", "--db", study.workspace.catalogue)
        assert status == 0, err
        shown = json.loads(out)
        assert any(words in sentence for sentence in shown["remarks"])
        assert shown["projection"].get("draws", 1) == draws


def test_one_draw_changes_no_key(tmp_path: Path):
    (tmp_path / "tiny_task.py").write_text(TASK)
    (tmp_path / "drawn.toml").write_text(STUDY.replace("KIND", "gaussian"))
    content = read_study_file(tmp_path / "drawn.toml")
    facts = task_facts(load_task(content["task"]), content["task"])

    def keys(**more: Any) -> list[str]:
        study = resolve({**content, "projection": {**content["projection"], **more}})
        return [step.key for step in build_plan(study, facts).steps]

    assert keys() == keys(draws=1)
    several = keys(draws=3)
    assert len(several) > len(keys())
    unchanged = set(keys()) & set(several)
    assert len(unchanged) >= len(keys()) - 4  # two projected configurations, and what compares them, are judged anew
