"""How fast subsets are retrained, against the loops that people write.

    python -m tests.benchmarks.bench_training [--quick] [--json]

Same model, epochs, dropout, batches and examples in every row. The DataLoader and the autograd loop run in one process
with one and with as many threads as there are cores, and the faster counts; ours is ``retrain_subsets`` as the product
calls it, evaluation of the test split and traffic between processes included (pool started before). Rounds are
interleaved and medians printed, so that a busy machine slows all rows alike.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tda_backend.models.tasks.data import take, validate_data
from tda_backend.models.tasks.registry import load_task
from tda_backend.models.tasks.settings import training_settings
from tda_backend.models.training.retraining.plan import Retraining
from tda_backend.models.training.retraining.processes import default_num_processes
from tda_backend.models.training.retraining.retraining import retrain_subsets
from tda_backend.models.training.retraining.subsets import subset_masks
from tda_backend.models.training.routes.perceptron import mlp_architecture
from tda_backend.types import TrainingSettings

NUM_TRAIN, ALPHA = 4000, 0.5
TARGETS = {"dataloader": 2.2, "autograd": 1.6, "matrix rate": 0.35}


def machine_name() -> str:
    """Return the processor's name and the number of cores this process may use."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as lines:
            name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass
    return f"{name}, {default_num_processes()} cores, torch {torch.__version__}"


def dataloader_epochs(model: nn.Module, rows: dict[str, Tensor], settings: TrainingSettings, epochs: int) -> None:
    """Train as the tutorials do."""
    loader = DataLoader(TensorDataset(rows["x"], rows["y"]), batch_size=settings.batch_size, shuffle=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=settings.learning_rate, momentum=settings.momentum)
    model.train()
    for _ in range(epochs):
        for inputs, labels in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()


def autograd_epochs(model: nn.Module, rows: dict[str, Tensor], settings: TrainingSettings, epochs: int) -> None:
    """Train by autograd over tensors in memory."""
    optimizer = torch.optim.SGD(model.parameters(), lr=settings.learning_rate, momentum=settings.momentum)
    model.train()
    for _ in range(epochs):
        for part in torch.randperm(len(rows["x"])).split(settings.batch_size):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(rows["x"][part]), rows["y"][part]).backward()
            optimizer.step()


def seconds(run: Callable[[], object], threads: int) -> float:
    """Return the wall time of ``run`` with that many threads."""
    torch.set_num_threads(threads)
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def matrix_rate(threads: int) -> float:
    """Return float32 operations per second of a large matrix product."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    out = torch.empty(2048, 2048)
    torch.set_num_threads(threads)
    torch.mm(a, b, out=out)
    return 2 * 2048**3 / min(seconds(lambda: torch.mm(a, b, out=out), threads) for _ in range(3))


def measure(rounds: int, models: int, loop_epochs: int) -> dict[str, float]:
    """Return seconds per model-epoch of each way, the matrix rate, and the ratios; medians over rounds."""
    task = load_task("mnist-mlp")
    data, settings = validate_data(task), training_settings(task)
    cores = default_num_processes()
    masks = subset_masks(NUM_TRAIN, ALPHA, models, seed=0)
    rows = take(data["train"], np.flatnonzero(masks[0]))
    size = len(rows["y"])

    def retrain(count: int) -> None:
        retrain_subsets(
            Retraining(task, data, range(NUM_TRAIN), masks[:count], range(count), repeats=1, seed=0),
            num_processes=cores,
        )

    retrain(cores)  # starts the processes
    times: dict[str, list[float]] = {"ours": [], "dataloader": [], "autograd": []}
    rates = []
    for _ in range(rounds):
        rates.append(matrix_rate(cores))
        for name, loop in (("dataloader", dataloader_epochs), ("autograd", autograd_epochs)):
            best = min(
                seconds(lambda loop=loop: loop(task.build_model(0), rows, settings, loop_epochs), threads)
                for threads in {1, cores}
            )
            times[name].append(best / loop_epochs)
        times["ours"].append(seconds(lambda: retrain(models), 1) / (models * settings.num_epochs))
    architecture = mlp_architecture(task, task.build_model(0), data["train"])
    assert architecture is not None
    result = {f"{name} s/model-epoch": statistics.median(values) for name, values in times.items()}
    for name in ("dataloader", "autograd"):
        result[f"{name} / ours"] = statistics.median(
            other / ours for other, ours in zip(times[name], times["ours"], strict=True)
        )
    achieved = [architecture.needed_operations * size / ours for ours in times["ours"]]
    result["matrix rate GFLOP/s"] = statistics.median(rates) / 1e9
    result["share of matrix rate"] = statistics.median(a / r for a, r in zip(achieved, rates, strict=True))
    return result


def main() -> None:
    """Print the ratios beside their targets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="about 20 seconds instead of about 90")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    cores = default_num_processes()
    found = measure(*((3, 2 * cores, 4) if arguments.quick else (7, 4 * cores, 10)))
    if arguments.json:
        print(json.dumps({"machine": machine_name(), **found}))
        return
    print(f"Retraining mnist-mlp on {int(ALPHA * NUM_TRAIN)} examples · {machine_name()}")
    print(f"ours: {cores} processes of one thread; the others: one process, the faster of 1 and {cores} threads")
    for name in ("ours", "dataloader", "autograd"):
        print(f"  {name:<12}{found[f'{name} s/model-epoch'] * 1e3:8.1f} ms per model-epoch")
    print(f"  DataLoader loop / ours          {found['dataloader / ours']:5.2f}  (target ≥ {TARGETS['dataloader']})")
    print(f"  autograd in memory / ours       {found['autograd / ours']:5.2f}  (target ≥ {TARGETS['autograd']})")
    print(
        f"  needed operations / matrix rate {found['share of matrix rate']:5.0%}  (target ≥ "
        f"{TARGETS['matrix rate']:.0%} of {found['matrix rate GFLOP/s']:.0f} GFLOP/s)"
    )


if __name__ == "__main__":
    main()
