"""Tasks of any number of made-up examples: perceptrons, whose gradients have factors, and others, whose have none."""

from __future__ import annotations

from pathlib import Path

CODE = '''
import torch
from torch import nn
from tda_backend.models.tasks import ClassificationTask
from tda_backend.models.tasks.built_in.gpt import GPT, GPTShape
from tda_backend.types import Task, TrainingSettings

NUM_TRAIN, NUM_TEST = {num_train}, {num_test}


def made_up(shape, num, seed):
    """Ten overlapping classes with one label in ten wrong, so that gradients do not vanish."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(10, (num,), generator=generator)
    centres = torch.randn(10, *shape, generator=torch.Generator().manual_seed(0))
    x = torch.randn(num, *shape, generator=generator)
    for rows in torch.arange(num).split(1000):  # no second copy: peaks are measured
        x[rows[0] : rows[-1] + 1].add_(centres[labels[rows]], alpha=0.2)
    wrong = torch.rand(num, generator=generator) < 0.1
    return {{"x": x, "y": torch.where(wrong, torch.randint(10, (num,), generator=generator), labels)}}


class Scale(ClassificationTask):
    num_classes = 10
    training = TrainingSettings(num_epochs=1, batch_size=64, learning_rate=0.01, momentum=0.9)
    _datasets = None

    def datasets(self):
        if self._datasets is None:
            self._datasets = {{
                "train": made_up(self.shape, NUM_TRAIN, 1), "test": made_up(self.shape, NUM_TEST, 2)
            }}
        return self._datasets

    def build_model(self, seed):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.layers()


class Perceptron(Scale):
    name = "scale-perceptron"
    shape = (784,)

    def layers(self):
        return nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))


class Convolutional(Scale):
    name = "scale-cnn"
    shape = (1, 28, 28)

    def layers(self):
        return nn.Sequential(
            nn.Conv2d(1, 8, 5, stride=2), nn.ReLU(), nn.Conv2d(8, 16, 5, stride=2), nn.ReLU(), nn.Flatten(),
            nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 10),
        )


class LargeConvolutional(Scale):
    """1.7 million parameters."""
    name = "scale-large-cnn"
    shape = (1, 28, 28)

    def layers(self):
        return nn.Sequential(
            nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(9216, 184), nn.ReLU(), nn.Linear(184, 10),
        )


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.inner = nn.Sequential(part(width, width), part(width, width))

    def forward(self, x):
        return x + self.inner(x)


def part(inputs, outputs, *pool):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(), *pool
    )


class ResNet9(Scale):
    """1.6 million parameters."""
    name = "scale-resnet9"
    shape = (3, 32, 32)

    def layers(self):
        return nn.Sequential(
            part(3, 32), part(32, 64, nn.MaxPool2d(2)), Residual(64), part(64, 128, nn.MaxPool2d(2)),
            part(128, 256, nn.MaxPool2d(2)), Residual(256), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(256, 10),
        )


class Table(Scale):
    """A table of 20 columns."""
    name = "scale-table"
    shape = (20,)

    def layers(self):
        return nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 10))


SYMBOLS, LENGTH, WIDTH = 256, 64, 128


class Bert(Scale):
    """Classifies texts of 64 symbols: an encoder of 0.5 million parameters."""
    name = "scale-bert"

    def datasets(self):
        if self._datasets is None:
            self._datasets = {{"train": texts(NUM_TRAIN, 1), "test": texts(NUM_TEST, 2)}}
        return self._datasets

    def layers(self):
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, dropout=0.0, batch_first=True)
        encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        return nn.Sequential(nn.Embedding(SYMBOLS, WIDTH), encoder, First(), nn.Linear(WIDTH, 10))


class First(nn.Module):
    def forward(self, x):
        return x[:, 0]


def texts(num, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(10, (num,), generator=generator)
    symbols = torch.randint(SYMBOLS, (num, LENGTH), generator=generator)
    symbols[:, :20] = torch.where(torch.rand(num, 20, generator=generator) < 0.3, labels[:, None], symbols[:, :20])
    return {{"x": symbols, "y": labels}}


class Adapted(nn.Module):
    """LoRA of rank 4: W·x + B·(A·x), W frozen."""

    def __init__(self, linear):
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.down = nn.Linear(linear.in_features, 4, bias=False)
        self.up = nn.Linear(4, linear.out_features, bias=False)
        nn.init.normal_(self.up.weight, std=0.01)

    def forward(self, x):
        return self.linear(x) + self.up(self.down(x))


class Lora(Bert):
    """The encoder frozen, with adapters in its perceptrons."""
    name = "scale-lora"

    def layers(self):
        model = super().layers().requires_grad_(False)
        for layer in model[1].layers:
            layer.linear1, layer.linear2 = Adapted(layer.linear1), Adapted(layer.linear2)
            layer.activation_relu_or_gelu = 0  # the fused route reads the weights of plain layers
        model[3].requires_grad_(True)
        return model


class Gpt(Task):
    """The next symbols of texts: a decoder of 0.5 million parameters."""
    name = "scale-gpt"
    margin_identity = False
    measurement_sign = -1
    training = TrainingSettings(num_epochs=1, batch_size=32, learning_rate=0.01, momentum=0.9)
    _datasets = None

    def datasets(self):
        if self._datasets is None:
            self._datasets = {{"train": texts(NUM_TRAIN, 1), "test": texts(NUM_TEST, 2)}}
        return self._datasets

    def build_model(self, seed):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return GPT(GPTShape(SYMBOLS, LENGTH, WIDTH, 2, 4))

    def train_loss(self, model, batch):
        logits = model(batch["x"][:, :-1])
        return nn.functional.cross_entropy(logits.mT, batch["x"][:, 1:], reduction="none").mean(1)

    def measurement(self, model, batch):
        return self.train_loss(model, batch)


def perceptron():
    return Perceptron()


def resnet9():
    return ResNet9()


def table():
    return Table()


def bert():
    return Bert()


def lora():
    return Lora()


def gpt():
    return Gpt()


def cnn():
    return Convolutional()


def large_cnn():
    return LargeConvolutional()
'''

STUDY = """
name = "scale"
task = "scale_task.py:{task}"
[data]
train = {num_train}
validation = {num_validation}
queries = {num_queries}
[training]
epochs = [1]
[ground_truth]
subsets = {num_subsets}
[projection]
kind = "{kind}"
max_dim = {max_dim}
[regularization]
count = 20
include_zero = false
{methods}"""

WITHOUT_MARGIN = ("gpt",)
"""Tasks that TRAK says nothing of."""
_METHOD = """[methods.{method}]
projection_dim = [{dim}]
num_eigenvalues = {kept}
"""


def write_study(
    folder: Path,
    task: str,
    num_train: int,
    *,
    dim: int | str = 512,
    num_queries: int = 200,
    num_validation: int = 500,
    kind: str = "sparse",
    num_subsets: int = 0,
    kept: int = 0,
) -> Path:
    """Write a task of ``num_train`` examples and a study of it into ``folder``: IFFIM and TRAK at 20 λ.

    Args:
        folder: Where.
        task: ``perceptron``, ``cnn``, ``large_cnn``, ``resnet9``, ``table``, ``bert``, ``lora``, or ``gpt``.
        num_train: n.
        dim: k, or ``none``.
        num_queries: m.
        num_validation: v.
        kind: Of projection.
        num_subsets: Subsets that are retrained, of half the examples each.
        kept: Eigenvalues that are kept; 0: all.
    """
    code = CODE.format(num_train=num_train, num_test=num_queries + num_validation)
    (folder / "scale_task.py").write_text(code, encoding="utf-8")
    words = f'"{dim}"' if isinstance(dim, str) else dim
    methods = ("iffim",) if task in WITHOUT_MARGIN else ("iffim", "trak")
    text = STUDY.format(
        task=task,
        num_train=num_train,
        num_validation=num_validation,
        num_queries=num_queries,
        kind=kind,
        num_subsets=num_subsets,
        methods="".join(_METHOD.format(method=method, dim=words, kept=kept) for method in methods),
        max_dim=512 if isinstance(dim, str) else dim,
    )
    path = folder / "scale.toml"
    path.write_text(text, encoding="utf-8")
    return path
