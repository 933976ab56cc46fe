"""What gradients in bfloat16 save on this processor, and what they cost: float32 and bfloat16 in turns, one thread.

    python -m tests.benchmarks.bench_precision [--quick]

The models are untrained, their data random: times do not depend on the values. The error is what a study measures,
‖g − g₃₂‖/‖g₃₂‖ of whole gradients of 16 examples.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tda_backend.models.precision import BF16
from tda_backend.models.probe import Probe
from tda_backend.numerics.features.dense import Request, dense_gram, project_gradients
from tda_backend.numerics.features.factors import linear_factors
from tda_backend.numerics.features.layers import layer_batches
from tda_backend.numerics.features.projection import Projection
from tda_backend.numerics.features.rounding import rounding_error
from tda_backend.types import Batch, Task
from tests.benchmarks.bench_attribution import machine
from tests.benchmarks.bench_features import NUM_BLOCKS, WIDTH, RandomText, processor_seconds

CLASSES = 10
REQUESTS = [Request("train", "train_loss")]


class RandomImages(Task):
    """Random pixels in ten classes.

    Args:
        num_rows: n.
        shape: Of an example.
        build: Returns the model.
    """

    name = "random-images"

    def __init__(self, num_rows: int, shape: tuple[int, ...], build: Callable[[], nn.Module]) -> None:
        self._build = build
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(num_rows, *shape, generator=generator)
        rows = {"x": x, "y": torch.randint(0, CLASSES, (num_rows,), generator=generator)}
        self._data = {"train": rows, "test": rows}

    def datasets(self) -> dict[str, dict[str, Tensor]]:
        """Return both splits."""
        return self._data

    def build_model(self, seed: int) -> nn.Module:
        """Return the model."""
        torch.manual_seed(seed)
        return self._build()

    def train_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the cross-entropy of each example."""
        return F.cross_entropy(model(batch["x"]), batch["y"], reduction="none")

    def measurement(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the log-probability of the label."""
        return -self.train_loss(model, batch)


def convolutions() -> nn.Module:
    """Return five convolutions with ReLU on 32 × 32 pixels."""
    widths = (3, 64, 64, 128, 128, 256)
    layers: list[nn.Module] = []
    for number, (inner, outer) in enumerate(itertools.pairwise(widths)):
        layers += [nn.Conv2d(inner, outer, 3, padding=1, stride=1 + number % 2), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], CLASSES))


def perceptron() -> nn.Module:
    """Return 1 024-2 048-2 048-10 with ReLU."""
    return nn.Sequential(nn.Linear(1024, 2048), nn.ReLU(), nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, CLASSES))


def narrow_perceptron() -> nn.Module:
    """Return 784-128-10 with ReLU."""
    return nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, CLASSES))


def layers(probe: Probe) -> object:
    """Take the factors that EK-FAC takes, and forget them."""
    return sum(1 for _ in layer_batches(probe, "train", "train_loss", untracked="leave-out"))


def projected(probe: Probe) -> object:
    """Take sparse features, k = 512."""
    return project_gradients(probe, REQUESTS, Projection("sparse", 512, 0))


def compare(what: str, task: Task, take: Callable[[Probe], object], repeats: int) -> None:
    """Print the time of one kind of features in both precisions, in turns, and the error."""
    rows = len(next(iter(task.datasets()["train"].values())))
    exact = Probe(task, task.build_model(0).eval(), task.datasets(), range(rows))
    half = Probe(task, exact.model, exact.data, exact.train, precision=BF16)
    pairs = []
    for probe in (exact, half):
        take(probe.only("train", range(min(16, rows))))  # what first calls cost
    for _ in range(repeats):
        pairs.append([processor_seconds(lambda of=probe: take(of)) for probe in (exact, half)])
    full, low = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratios = sorted(low / full for full, low in pairs)
    error = rounding_error(half, "train_loss")
    print(
        f"{what}: float32 {full:.2f} s, bf16 {low:.2f} s, {statistics.median(ratios):.2f} of it "
        f"({ratios[0]:.2f} … {ratios[-1]:.2f}); error {error.median:.2g}, at worst {error.worst:.2g}",
        flush=True,
    )


def main() -> None:
    """Print every comparison, those that bfloat16 loses among them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes; the ratios are rougher")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    repeats, share = (1, 4) if quick else (5, 1)
    print(f"{machine()}; processor {torch.backends.cpu.get_cpu_capability()}, medians of {repeats} runs in turns")
    text = RandomText(64 // share, 64, WIDTH, NUM_BLOCKS)
    compare("transformer of 9.6 million parameters, sparse features", text, projected, repeats)
    compare("the same, factors of its layers", text, layers, repeats)
    images = RandomImages(128 // share, (3, 32, 32), convolutions)
    compare("convolutions on 32 × 32 pixels, sparse features", images, projected, repeats)
    few = RandomImages(64 // share, (3, 32, 32), convolutions)
    compare("the same, Gram matrix", few, lambda probe: dense_gram(probe, REQUESTS), repeats)
    wide = RandomImages(4096 // share, (1024,), perceptron)
    compare("wide perceptron, factors", wide, lambda probe: linear_factors(probe, "train", "train_loss"), repeats)
    small = RandomImages(
        4096 // share, (784,), lambda: nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, CLASSES))
    )
    compare("784-128-10, factors", small, lambda probe: linear_factors(probe, "train", "train_loss"), repeats)


if __name__ == "__main__":
    main()
