"""What the proof of a task's contract costs, beside a plain forward and backward pass over the same rows.

    python -m tests.benchmarks.bench_contract [--quick]

Each line is the median of several rounds, in which both take turns on one thread. Limit: one plain pass a checkpoint.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from tda_backend.models.checking.verification import verify_before_training, verify_checkpoint
from tda_backend.models.probe import Probe
from tda_backend.models.tasks.contract import built
from tda_backend.models.tasks.data import take, validate_data
from tda_backend.models.tasks.registry import load_task
from tda_backend.types import Task

TASKS = ("mnist-mlp", "mnist-mlp-512", "mnist-cnn-adamw")
BLOCK = 128


def around_the_model(task: Task) -> Task:
    """Return the task with logits that do not call the model itself, so that the proof takes two backward passes."""

    class Around(type(task)):
        def logits(self, model, batch):
            return type(model).forward(model, batch[self.input_key])

    other = Around.__new__(Around)
    vars(other).update(vars(task))
    return other


def probe_of(task: Task, rows: int) -> Probe:
    """Return a task at its untrained model, with the first rows of its data."""
    return Probe(
        task, built(task, 0), validate_data(task), torch.arange(rows), torch.arange(100), torch.arange(100, 200)
    )


def plain_pass(probe: Probe) -> None:
    """Take the loss of every row forward and back."""
    for rows in probe.rows("train").split(BLOCK):
        loss = probe.task.train_loss(probe.model, take(probe.data["train"], rows)).sum()
        torch.autograd.grad(loss, list(probe.model.parameters()))


def medians(rounds: int, *work: Callable[[], object]) -> list[float]:
    """Return the median seconds of each, taken in turns."""
    found: list[list[float]] = [[] for _ in work]
    for _ in range(rounds + 1):
        for times, each in zip(found, work, strict=True):
            began = time.perf_counter()
            each()
            times.append(time.perf_counter() - began)
    return [statistics.median(times[1:]) for times in found]


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    print("task                            rows   plain pass   a checkpoint   before training")
    for name in TASKS[: 1 if quick else None]:
        for kind, change in (("", lambda task: task), (" (around the model)", around_the_model)):
            probe = probe_of(change(load_task(name)), 1000 if quick else 5000)
            plain, checkpoint, before = medians(
                3 if quick else 7,
                lambda probe=probe: plain_pass(probe),
                lambda probe=probe: verify_checkpoint(probe),
                lambda probe=probe: verify_before_training(probe),
            )
            rows = len(probe.rows("train"))
            ratios = f"{checkpoint / plain:12.2f} × {before / plain:15.2f} ×"
            print(f"{name + kind:30s} {rows:5d} {plain:10.3f} s {ratios}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
