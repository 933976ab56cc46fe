"""What does exact unrolling of a training run cost?

    python -m tests.benchmarks.bench_unrolled [--quick]

The paper's perceptron (784-16-16-10, 13 002 parameters), 94 steps of AdamW on 6 000 MNIST digits, influence of all
examples on 500 queries. Under 60 s is asked for on two cores. Then what other choices cost, as multiples of that:
another assumption, several in one walk, another curvature, float64, most steps recomputed under a small budget, and one
query after the other instead of all in one sweep. CPU seconds beside the wall clock tell a busy machine from slow code;
ratios are of CPU seconds.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tda_backend.models.tasks.built_in.adaptive import MnistMLPAdamW
from tda_backend.models.tasks.data import validate_data
from tda_backend.models.training.run import TrainingRun
from tda_backend.numerics.trajectory.unrolled.influence import Variant, unrolled_influence, unrolled_influences
from tda_backend.numerics.trajectory.unrolled.queries import Queries
from tda_backend.numerics.trajectory.unrolled.recording import record
from tda_backend.numerics.trajectory.unrolled.snapshots import GIB
from tda_backend.seeds import hashed_rng
from tests.benchmarks.bench_training import machine_name

GOAL_SECONDS = 60.0


def timed(name: str, work: Callable[[], Any], base: float | None = None) -> tuple[Any, float, float]:
    """Return what ``work`` returns, its seconds and its CPU seconds; print them."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = work()
    seconds, used = time.perf_counter() - wall, time.process_time() - cpu
    ratio = "" if base is None else f"   {used / base:5.2f} ×"
    print(f"  {name:52s} {seconds:7.1f} s  ({used:6.1f} CPU s){ratio}", flush=True)
    return found, seconds, used


def main() -> None:
    """Print seconds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a fifth of the examples and queries")
    share = 5 if parser.parse_args().quick else 1
    num_train, num_queries = 6000 // share, 500 // share
    task = MnistMLPAdamW()
    data = validate_data(task)
    train = np.sort(hashed_rng("bench unrolled train").permutation(7000)[:num_train])
    queries = np.sort(hashed_rng("bench unrolled test").permutation(2000)[:num_queries])
    print(f"  {machine_name()}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}")
    print(f"  {num_train} training examples, {num_queries} queries")

    run = timed("record the run, float32", lambda: record(TrainingRun(task, data, train, 0)))[0]
    unrolled_influence(run, Queries(queries[:2]))  # PyTorch compiles some of its derivatives at first use
    influence, seconds, base = timed(
        "AdamW-influence, exact Hessian", lambda: unrolled_influence(run, Queries(queries))
    )
    met = "met" if seconds <= GOAL_SECONDS else "MISSED"
    print(f"  goal ≤ {GOAL_SECONDS:.0f} s: {met}; {1e6 * base / (num_train * num_queries):.1f} CPU µs per pair")
    timed("SGD-influence", lambda: unrolled_influence(run, Queries(queries), Variant(assume="sgd")), base)
    both = [Variant(), Variant("sgd")]
    timed("both in one walk", lambda: unrolled_influences(run, Queries(queries), both), base)
    timed("Gauss–Newton", lambda: unrolled_influence(run, Queries(queries), Variant(curvature="gauss-newton")), base)
    timed("empirical Fisher", lambda: unrolled_influence(run, Queries(queries), Variant(curvature="fisher")), base)
    timed("no curvature", lambda: unrolled_influence(run, Queries(queries), Variant(curvature="none")), base)

    state = 3 * run.num_parameters * 4 / GIB
    room = (2 * int(np.ceil(np.sqrt(run.num_steps))) + 1) * state
    with tempfile.TemporaryDirectory() as folder:
        small = record(TrainingRun(task, data, train, 0), budget_gib=room, folder=Path(folder))
        name = f"on disk in {1024 * room:.0f} MiB, one state in {small.interval} kept"
        timed(name, lambda: unrolled_influence(small, Queries(queries)), base)
    few = queries[:5]
    _, _, used = timed(
        "5 queries, one sweep each", lambda: [unrolled_influence(run, Queries([query])) for query in few]
    )
    print(f"  one sweep a query: {used / 5 * num_queries / base:.0f} × the one sweep of all")

    double = record(TrainingRun(task, data, train, 0), dtype=torch.float64)
    exact = timed("AdamW-influence, float64", lambda: unrolled_influence(double, Queries(queries)), base)[0]
    off = (influence.scores.double() - exact.scores).norm() / exact.scores.norm()
    print(f"  scores in float32 and float64, each from a run of its own, differ by {float(off):.1e}")


if __name__ == "__main__":
    main()
