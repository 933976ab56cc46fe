"""How fast models other than perceptrons are retrained, against a DataLoader loop and the machine's own rates.

    python -m tests.benchmarks.bench_retraining [--quick]

One thread on both sides, the same model, batches of the same size and optimizer; rounds are interleaved and medians of
processor time printed. *Loop in memory* is what people write who leave the DataLoader out. Rates are of large matrix
products, and of 3 × 3 convolutions of 64 channels on planes of 28 × 28. Needed operations are counted on one example.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tda_backend.models.tasks.contract import built
from tda_backend.models.tasks.data import take, validate_data
from tda_backend.models.tasks.registry import load_task
from tda_backend.models.tasks.settings import training_settings
from tda_backend.models.training.retraining.cost import autograd_operations
from tda_backend.models.training.retraining.plan import Retraining
from tda_backend.models.training.retraining.retraining import retrain_subsets
from tda_backend.models.training.routes.optimizer import torch_optimizer
from tda_backend.types import Batch, Task
from tests.benchmarks.bench_training import machine_name
from tests.benchmarks.scale_tasks import CODE

TASKS = {"cnn": 8192, "large_cnn": 1024, "resnet9": 512, "bert": 1024, "gpt": 1024}
"""Training examples of each."""
CONVOLUTIONAL = ("cnn", "large_cnn", "resnet9")


def seconds(run: Callable[[], object]) -> float:
    """Return the processor time of ``run``."""
    start = time.process_time()
    run()
    return time.process_time() - start


def matrix_rate() -> float:
    """Return float32 operations per second of a large matrix product."""
    a, b, out = torch.randn(2048, 2048), torch.randn(2048, 2048), torch.empty(2048, 2048)
    torch.mm(a, b, out=out)
    return 2 * 2048**3 / min(seconds(lambda: torch.mm(a, b, out=out)) for _ in range(3))


def convolution_rate() -> float:
    """Return float32 operations per second of a forward convolution."""
    layer, inputs = nn.Conv2d(64, 64, 3, padding=1), torch.randn(64, 64, 28, 28)
    with torch.no_grad():
        layer(inputs)
        return 2 * 9 * 64 * 64 * inputs.shape[0] * 28 * 28 / min(seconds(lambda: layer(inputs)) for _ in range(3))


def from_loader(rows: Batch, size: int) -> Iterator[Batch]:
    """Yield the batches of a DataLoader."""
    for parts in DataLoader(TensorDataset(*rows.values()), batch_size=size, shuffle=True):
        yield dict(zip(rows, parts, strict=True))


def in_memory(rows: Batch, size: int) -> Iterator[Batch]:
    """Yield the same from tensors."""
    for index in torch.randperm(len(next(iter(rows.values())))).split(size):
        yield {name: value[index] for name, value in rows.items()}


def loop(task: Task, rows: Batch, batches: Callable[[Batch, int], Iterator[Batch]]) -> None:
    """Train for one epoch as the tutorials do."""
    model, settings = built(task, 0).train(), training_settings(task)
    optimizer = torch_optimizer(settings, list(model.parameters()))
    for batch in batches(rows, settings.batch_size):
        optimizer.zero_grad()
        task.train_loss(model, batch).mean().backward()
        optimizer.step()


def measure(task: Task, num_train: int, rounds: int) -> dict[str, float]:
    """Return the median seconds of one epoch by each way."""
    data = validate_data(task)
    rows, everything = take(data["train"], np.arange(num_train)), np.ones((1, num_train), dtype=bool)
    few = {"train": data["train"], "test": take(data["test"], np.arange(2))}
    ways = {
        "ours": lambda: retrain_subsets(
            Retraining(task, few, range(num_train), everything, [0], repeats=1, seed=0), num_processes=1
        ),
        "DataLoader": lambda: loop(task, rows, from_loader),
        "loop in memory": lambda: loop(task, rows, in_memory),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            took = seconds(way)
            if turn:  # the first compiles kernels
                times[name].append(took)
    return {name: statistics.median(each) for name, each in times.items()}


def main() -> None:
    """Print a row for each kind of model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer examples and rounds")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    print(f"Retraining, one epoch, one thread · {machine_name()}")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "scale_task.py"
        file.write_text(CODE.format(num_train=max(TASKS.values()), num_test=8))
        for name, size in TASKS.items():
            row(load_task(f"{file}:{name}"), size // 4 if quick else size, 2 if quick else 5, name in CONVOLUTIONAL)


def row(task: Task, num_train: int, rounds: int, is_convolutional: bool) -> None:
    """Print one kind of model."""
    rate = convolution_rate() if is_convolutional else matrix_rate()
    found = measure(task, num_train, rounds)
    each = autograd_operations(task, built(task, 0), task.datasets()["train"])
    share = num_train * each / found["ours"] / rate
    ratios = "   ".join(f"{other} / ours {found[other] / found['ours']:.2f}" for other in list(found)[1:])
    kind = "convolution" if is_convolutional else "matrix"
    print(f"  {task.name:<15} {num_train} examples {found['ours']:6.2f} s   {ratios}   ", end="")
    print(f"{share:4.0%} of the {kind} rate ({rate / 1e9:.0f} GFLOP/s)")


if __name__ == "__main__":
    main()
