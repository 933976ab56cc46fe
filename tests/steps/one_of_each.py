"""One small study that makes every kind of step; a new kind that it does not make needs a line here."""

from __future__ import annotations

from pathlib import Path

from tests.runs.conftest import TASK

SMOOTH = TASK.replace(
    "TrainingSettings(num_epochs=4, batch_size=16, learning_rate=0.1, momentum=0.9)",
    'TrainingSettings(num_epochs=3, batch_size=20, learning_rate=0.02, optimizer="adamw", schedule="cosine")',
).replace("nn.ReLU()", "nn.Tanh()")
"""The tiny task as unrolling needs it."""
STUDY = """
name = "each"
task = "tiny_task.py:factory"
seed = 3
[data]
train = 40
validation = 8
queries = 26
flip_labels = 0.2
[training]
epochs = [1, 3]
[ground_truth]
subsets = 24
[regularization]
count = 4
[evaluation]
bootstrap = 20
top = 5
[methods.iffim]
epochs = 3
projection_dim = [8, "none"]
[methods.trak]
epochs = 3
projection_dim = [8]
half_subset_models = [2]
num_eigenvalues = [4]
[methods.if-explicit]
epochs = 3
curvature = ["ggn"]
projection_dim = [8]
[methods.ekfac]
epochs = 3
[methods.gradient-similarity]
epochs = 3
similarity = ["dot"]
[methods.empirical-influence]
subsets = 8
[removal]
queries = 2
sizes = [2, 8]
seeds = 2
of = [{method = "gradient-similarity"}, {method = "iffim", projection_dim = "none", regularization = 0.1}]
[loo]
examples = 4
seeds = 2
of = [{method = "gradient-similarity"}, {method = "iffim", projection_dim = "none", regularization = 0.1}]
[trajectory]
learning_rates = [0.02]
seeds = 1
removed = 6
curvatures = ["hessian"]
horizons = 2
[lookahead]
learning_rates = [0.02, 0.05]
horizons = [1, "all"]
seeds = 2
[[claims]]
id = "best-beats-zero"
paper = "taming"
place = "Figure 2"
statement = "The best λ is better than λ = 0."
check = "greater"
left = {method = "iffim", projection_dim = "none", regularization = "best"}
right = {method = "iffim", projection_dim = "none", regularization = "zero"}
"""


def write_study(folder: Path) -> Path:
    """Write task and study into ``folder`` and return the study's path."""
    (folder / "tiny_task.py").write_text(SMOOTH)
    path = folder / "each.toml"
    path.write_text(STUDY)
    return path
