"""A small real study whose runs are unrolled and whose data is selected while training: points shown as text."""

from __future__ import annotations

from pathlib import Path

from tests.runs.conftest import TASK, tda

ADAM_TASK = TASK.replace(
    "TrainingSettings(num_epochs=4, batch_size=16, learning_rate=0.1, momentum=0.9)",
    'TrainingSettings(num_epochs=4, batch_size=16, learning_rate=0.01, optimizer="adamw", betas=(0.9, 0.95))',
)
STUDY = """
name = "unrolled"
task = "adam_task.py:factory"
seed = 3
[data]
train = 60
validation = 12
queries = 10
flip_labels = 0.15
[training]
epochs = [4]
[ground_truth]
subsets = 4
[regularization]
count = 4
[methods.iffim]
projection_dim = [8]
[evaluation]
bootstrap = 50
top = 7
[trajectory]
learning_rates = [0.01, 0.001]
seeds = 2
removed = 12
horizons = 5
[lookahead]
learning_rates = [0.01, 0.03]
horizons = [1, 3, "all"]
seeds = 2
"""


def compute_unrolled(folder: Path) -> None:
    """Compute the study; some twenty seconds."""
    (folder / "adam_task.py").write_text(ADAM_TASK)
    path = folder / "unrolled.toml"
    path.write_text(STUDY)
    result = tda("run", path, db=folder / "workspace" / "catalogue.duckdb")
    assert result.returncode == 0, result.stderr
