"""A small real study that makes every kind of claim, computed, and its results exported."""

from __future__ import annotations

from pathlib import Path

from tda_backend.interfaces.papers.shipped import export_results
from tda_backend.interfaces.reading.study import open_study
from tests.runs.conftest import make_study, tda

CLAIMS = """
name = "claims-of-tiny"
task = "tiny_task.py:factory"
seed = 3
[data]
train = 60
validation = 12
queries = 10
[training]
epochs = [1, 4]
seeds = 2
[ground_truth]
subsets = 24
alphas = [0.5, 0.25]
[regularization]
count = 9
[methods.iffim]
epochs = [1, 4]
[methods.trak]
epochs = [4]
projection_dim = [4, 8]
[methods.tracin]
epochs = [4]
normalization = [false, true]
[evaluation]
bootstrap = 50
top = 7
"""
KINDS = {
    "greater": 'left = {method = "iffim", epoch = 4, regularization = "best"}\n'
    'right = [{method = "iffim", epoch = 1, regularization = "zero"}, {method = "trak", projection_dim = 8}]',
    "level": 'left = {method = "tracin", normalization = false}\nbound = -1.0',
    "ratio": 'left = {method = "iffim", seeds = 1}\nright = {method = "tracin", normalization = true}\nbound = 50',
    "wider": 'left = {method = "trak", projection_dim = 8}\nright = {method = "trak", projection_dim = 4}',
    "rule": 'methods = ["iffim", "trak"]\nleft = "selected"\nright = ["zero", "quantile 0.5"]',
    "regret": 'methods = ["iffim"]\nleft = "selected"\nbound = 0.5',
    "rising": 'methods = ["iffim", "trak"]',
    "same-shape": 'methods = ["iffim"]',
}


def claims_file() -> str:
    tables = [
        f'[[claims]]\nid = "a-{kind}-claim"\npaper = "{"source" if kind == "level" else "taming"}"\n'
        f'place = "Figure {number}"\nstatement = "Statement *number* {number}."\ncheck = "{kind}"\n{text}\n'
        for number, (kind, text) in enumerate(KINDS.items())
    ]
    return CLAIMS + "\n".join(tables)


def compute_claims(folder: Path) -> None:
    """Compute a study that makes every kind of comparison; beside it ``data``: its file, and its results exported."""
    make_study(folder)
    studies = folder / "data" / "studies"
    studies.mkdir(parents=True)
    path = studies / "claims-of-tiny.toml"
    path.write_text(claims_file().replace("tiny_task.py", str(folder / "tiny_task.py")))
    result = tda("run", path, db=folder / "workspace" / "catalogue.duckdb")
    assert result.returncode == 0, result.stderr
    other = claims_file().replace("claims-of-tiny", "never-run").replace("tiny_task.py", str(folder / "tiny_task.py"))
    (studies / "never-run.toml").write_text(other.split("[[claims]]")[0] + "[[claims]]" + other.split("[[claims]]")[1])
    export_results(open_study("claims-of-tiny", folder / "workspace" / "catalogue.duckdb"), folder / "exported")
