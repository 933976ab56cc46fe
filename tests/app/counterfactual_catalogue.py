"""A catalogue with everything that the pages on counterfactuals and data health show."""

from __future__ import annotations

from pathlib import Path

from tests.runs.conftest import make_study, tda

STUDY = """
name = "counter"
task = "tiny_task.py:factory"
seed = 3
[data]
train = 60
validation = 12
queries = 10
flip_labels = 0.15
[training]
epochs = [1, 4]
[ground_truth]
subsets = 12
alphas = [0.5, "1-1/n"]
[regularization]
count = 6
[methods.iffim]
projection_dim = ["none"]
[methods.tracin]
[methods.repsim]
epochs = [4]
[evaluation]
bootstrap = 50
top = 7
[removal]
queries = 4
sizes = [3, 8, 15]
seeds = 2
of = [{method = "iffim", regularization = "selected"}, {method = "iffim", regularization = "zero"}]
[loo]
examples = 6
seeds = 2
of = [{method = "iffim"}]
"""


def compute_counter(folder: Path) -> None:
    """Compute removal, leave-one-out and wrong labels on the tiny task; some ten seconds."""
    make_study(folder)
    path = folder / "counter.toml"
    path.write_text(STUDY)
    result = tda("run", path, db=folder / "workspace" / "catalogue.duckdb")
    assert result.returncode == 0, result.stderr
