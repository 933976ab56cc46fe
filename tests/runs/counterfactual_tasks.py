"""A task where six examples decide the queries, a linear model at its optimum, and studies of both."""

from __future__ import annotations

from pathlib import Path

TASKS = """
import torch
from torch import nn
from tda_backend.models.tasks import ClassificationTask
from tda_backend.types import Display, Task, TrainingSettings

NUM_DECIDING = 6


def cluster(centre, label, num, seed, spread=0.05):
    generator = torch.Generator().manual_seed(seed)
    x = torch.tensor(centre) + spread * torch.randn(num, 3, generator=generator)
    return x, torch.full((num,), label)


def joined(*parts):
    return {"x": torch.cat([x for x, _ in parts]), "y": torch.cat([y for _, y in parts])}


class Deciding(ClassificationTask):
    \"\"\"Queries lie where class 1 would win but for six training examples of class 0 (the first six rows).\"\"\"

    name = "deciding"
    num_classes = 2
    class_names = ("ant", "bee")
    training = TrainingSettings(num_epochs=60, batch_size=16, learning_rate=0.5)

    def datasets(self):
        few = cluster((0.0, 0.5, 1.0), 0, NUM_DECIDING, 1)
        train = joined(few, cluster((1.0, 0.0, 0.0), 0, 40, 2), cluster((0.0, 1.0, 0.0), 1, 40, 3))
        return {"train": train, "test": joined(cluster((0.0, 0.5, 1.0), 0, 12, 4))}

    def build_model(self, seed):
        model = nn.Sequential(nn.Linear(3, 2))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        return model

    def show(self, split, index):
        return Display("text", caption="a point", text=f"{split} {index}")


class Optimum(Deciding):
    \"\"\"Logistic regression with L2 decay, by full-batch descent to its optimum.\"\"\"

    name = "optimum"
    training = TrainingSettings(num_epochs=400, batch_size=1000, learning_rate=1.0, weight_decay=0.01)

    def datasets(self):
        def split(seed, num):
            generator = torch.Generator().manual_seed(seed)
            x = torch.randn(num, 3, generator=generator)
            noise = torch.randn(num, generator=generator)
            return {"x": x, "y": (x[:, 0] - x[:, 1] + 0.7 * noise > 0).long()}

        return {"train": split(5, 160), "test": split(6, 24)}


class Values(Task):
    \"\"\"Linear regression measured by absolute error: nothing is right or wrong, smaller is better.\"\"\"

    name = "values"
    measurement_sign = -1
    training = TrainingSettings(num_epochs=20, batch_size=16, learning_rate=0.1)

    def datasets(self):
        def split(seed, num):
            x = torch.randn(num, 3, generator=torch.Generator().manual_seed(seed))
            return {"x": x, "y": x[:, 0] - 2 * x[:, 1]}

        return {"train": split(7, 40), "test": split(8, 12)}

    def build_model(self, seed):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return nn.Linear(3, 1)

    def train_loss(self, model, batch):
        return (model(batch["x"])[:, 0] - batch["y"]).square()

    def measurement(self, model, batch):
        return (model(batch["x"])[:, 0] - batch["y"]).abs()

    def predict(self, model, batch):
        return model(batch["x"])[:, 0]


def values():
    return Values()


def deciding():
    return Deciding()


def optimum():
    return Optimum()
"""
DECIDING = """
name = "deciding"
task = "tasks.py:deciding"
seed = 1
[data]
train = 86
validation = 4
queries = 8
[training]
epochs = [5, 60]
[ground_truth]
subsets = 0
[regularization]
low = 1e-4
high = 1.0
count = 5
[methods.iffim]
projection_dim = ["none"]
[methods.gradient-similarity]
epochs = [60]
[evaluation]
bootstrap = 50
top = 5
[removal]
queries = 4
sizes = [1, 2, 6]
seeds = 2
of = [{method = "iffim", regularization = 0.1}, {method = "gradient-similarity"}]
"""
OPTIMUM = """
name = "optimum"
task = "tasks.py:optimum"
[data]
train = 160
validation = 4
queries = 20
[training]
epochs = [400]
[ground_truth]
subsets = 0
[regularization]
include_zero = false
low = 1e-4
high = 1.0
count = 5
[methods.if-explicit]
curvature = ["hessian"]
projection_dim = ["none"]
[evaluation]
bootstrap = 50
top = 5
[loo]
examples = 15
seeds = 1
choice = "random"
"""
VALUES = """
name = "values"
task = "tasks.py:values"
[data]
train = 40
validation = 4
queries = 8
[training]
epochs = [20]
[ground_truth]
subsets = 0
[methods.gradient-similarity]
similarity = ["dot"]
[evaluation]
bootstrap = 50
top = 5
[removal]
queries = 3
sizes = [2, 4]
seeds = 2
of = [{method = "gradient-similarity"}]
[loo]
examples = 3
seeds = 2
of = [{method = "gradient-similarity"}]
"""


def write_study(folder: Path, study: str) -> Path:
    """Write the tasks and one study into ``folder``; return the study's path."""
    (folder / "tasks.py").write_text(TASKS)
    path = folder / "study.toml"
    path.write_text(study)
    return path
