"""What do the truth and the error proxy of removals cost beside the influence sweep?

    python -m tests.benchmarks.bench_error_proxy [--quick]

The paper's perceptron (784-16-16-10, 13 002 parameters), 94 steps of AdamW on 6 000 MNIST digits, 200 removed examples,
500 evaluation examples:

1. Influence of all examples on all evaluation examples, one backward sweep in float32: under 60 s is asked for.
2. Removal of the 200 examples, one at a time, as one stacked model in float64; the loop it replaces, timed on two
   models and scaled up.
3. The error proxy of the same removals in float64: within 10 × the time of the sweep.
4. One step of the proxy by the pass it uses (both derivatives of the gradient along a curve), and by central
   differences of Hessian-vector products.

Times are of the wall clock; CPU seconds beside them tell a busy machine from slow code.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tda_backend.models.tasks.built_in.adaptive import MnistMLPAdamW
from tda_backend.models.tasks.data import validate_data
from tda_backend.models.training.run import TrainingRun
from tda_backend.numerics.trajectory.unrolled.error_proxy import error_proxies
from tda_backend.numerics.trajectory.unrolled.influence import unrolled_influence
from tda_backend.numerics.trajectory.unrolled.objective import Objective
from tda_backend.numerics.trajectory.unrolled.queries import Queries
from tda_backend.numerics.trajectory.unrolled.recording import record
from tda_backend.numerics.trajectory.unrolled.removal import removal_effects
from tda_backend.seeds import hashed_rng

GOAL_SECONDS, GOAL_RATIO = 60.0, 10.0


def timed(name: str, work: Callable[[], Any]) -> tuple[Any, float]:
    """Return what ``work`` returns and its seconds; print them."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = work()
    seconds = time.perf_counter() - wall
    print(f"{name:58s} {seconds:7.1f} s  ({time.process_time() - cpu:.1f} CPU s)", flush=True)
    return found, seconds


def by_differences(objective: Objective, theta: Tensor, rows: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Return what ``curve_gradients`` returns second, ∇³ by a central difference of products, ``[r, P]``."""
    size = 1e-4 / first.norm(dim=1).max()
    steps = []
    for vector in first:
        ends = [objective.hessian_product(theta + sign * size * vector, rows, vector[None])[0] for sign in (1, -1)]
        steps.append((ends[0] - ends[1]) / (2 * size))
    return objective.hessian_product(theta, rows, second) + torch.stack(steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a fifth of the training, removed and evaluation examples")
    share = 5 if parser.parse_args().quick else 1
    num_train, num_removed, num_points = 6000 // share, 200 // share, 500 // share
    task = MnistMLPAdamW()
    data = validate_data(task)
    train = np.sort(hashed_rng("bench proxy train").permutation(7000)[:num_train])
    removed = np.sort(hashed_rng("bench proxy removed").permutation(train)[:num_removed])
    points = np.sort(hashed_rng("bench proxy test").permutation(2000)[:num_points])
    removed, points = torch.from_numpy(removed), torch.from_numpy(points)
    print(f"load before: {os.getloadavg()[0]:.1f}; cores: {os.cpu_count()}; threads: {torch.get_num_threads()}")
    print(f"{num_train} training, {num_removed} removed, {num_points} evaluation examples")

    single, _ = timed("record the run, float32", lambda: record(TrainingRun(task, data, train, 0)))
    run, training = timed(
        "record the run, float64", lambda: record(TrainingRun(task, data, train, 0), dtype=torch.float64)
    )
    unrolled_influence(
        single, Queries(points[:2], quantity="loss")
    )  # PyTorch compiles some of its derivatives at first use
    error_proxies(run, removed[:2], Queries(points[:2], quantity="loss"))
    _, sweep = timed(
        "influence of all on all, one sweep", lambda: unrolled_influence(single, Queries(points, quantity="loss"))
    )
    truth, stacked = timed(
        "truth: all removals stacked", lambda: removal_effects(run, removed, Queries(points, quantity="loss"))
    )
    proxy, proxying = timed(
        "error proxy of all removals", lambda: error_proxies(run, removed, Queries(points, quantity="loss"))
    )
    error = float((truth.effects - proxy.prediction).abs().mean() / truth.effects.abs().mean())
    print(f"proxy / sweep {proxying / sweep:.1f} × (goal ≤ {GOAL_RATIO:.0f}); sweep goal ≤ {GOAL_SECONDS:.0f} s")
    print(
        f"removals one by one, at a training of {training:.1f} s: {training * num_removed:.0f} s, "
        f"{training * num_removed / stacked:.0f} × the stacked model"
    )
    print(f"mean |error| / mean |effect| of the prediction: {error:.2f}")

    step = next(iter(run.forward(run.num_steps // 2)))
    generator = torch.Generator().manual_seed(0)
    first, second = (1e-3 * torch.randn(16, run.num_parameters, generator=generator).double() for _ in range(2))
    args = run.objective, step.theta, step.rows, first, second
    exact, _ = timed("one step of 16 examples: one pass", lambda: Objective.curve_gradients(*args)[1])
    near, _ = timed("one step of 16 examples: central differences", lambda: by_differences(*args))
    print(f"central differences differ by {float((near - exact).norm() / exact.norm()):.1e}")


if __name__ == "__main__":
    main()
