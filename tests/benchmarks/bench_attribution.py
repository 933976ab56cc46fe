"""What a λ costs: the sweep against one value, scores at any λ, and drawing projections from the Gram matrix.

    python -m tests.benchmarks.bench_attribution [--quick]

Inputs are synthetic (random images, an untrained perceptron 784-128-64-10): costs do not depend on the values. Those of
a new query of EK-FAC do, on the spread of eigenvalues: there the shipped task mnist-mlp is trained.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable

import numpy as np
import scipy.linalg
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tda_backend.interfaces.reading.payload import payload_of
from tda_backend.models.probe import Probe
from tda_backend.models.tasks.registry import load_task
from tda_backend.models.training.fit import model_from, train
from tda_backend.models.training.run import TrainingRun
from tda_backend.numerics.attribution.ekfac import ekfac_spectrum
from tda_backend.numerics.attribution.influence import influence_spectrum
from tda_backend.numerics.evaluation.lds import GroundTruth, lds_curve
from tda_backend.numerics.features.checkpoint_features import CheckpointFeatures, checkpoint_features
from tda_backend.numerics.features.projection import Projection, gaussian_from_gram, project_factors
from tda_backend.numerics.spectral.contraction import scores, subset_sums
from tda_backend.numerics.spectral.coordinates import Spectrum
from tda_backend.numerics.spectral.one_query import candidates, score_curves
from tda_backend.studies.config.study import RegularizationGrid
from tda_backend.types import Batch, Task
from tests.helpers_numerics import margin

NUM_SUBSETS = 50


class SyntheticImages(Task):
    """Random 28 × 28 images of ten classes and a perceptron 784-128-64-10."""

    name = "synthetic-images"
    margin_identity = True

    def __init__(self, num_train: int, num_test: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self._data = {
            split: {
                "x": torch.randn(size, 784, generator=generator),
                "y": torch.randint(0, 10, (size,), generator=generator),
            }
            for split, size in (("train", num_train), ("test", num_test))
        }

    def datasets(self) -> dict[str, dict[str, Tensor]]:
        """Return both splits."""
        return self._data

    def build_model(self, seed: int) -> nn.Module:
        """Return the perceptron."""
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(784, 128), nn.ReLU(), nn.Dropout(0.1), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)
        )

    def train_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the cross-entropy of each example."""
        return F.cross_entropy(model(batch["x"]), batch["y"], reduction="none")

    def measurement(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the margin."""
        return margin(model(batch["x"]), batch["y"])


def seconds(run: Callable[[], object], repeats: int = 1) -> float:
    """Return the fastest of some runs."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best


def machine() -> str:
    """Return the processor, cores and library versions."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as lines:
            name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{name}, {os.cpu_count()} cores, torch {torch.__version__} with {torch.get_num_threads()} threads"


def cheapest_single(features: CheckpointFeatures, masks: np.ndarray, value: float, k: int | None) -> Tensor:
    """Return the subset sums of IFFIM at one λ by a Cholesky solve, without an eigendecomposition."""
    scale = -features.loss_scale
    train, query = features.rows("train"), features.rows("query")
    num = features.num_train
    gram = features.full_gram()
    summed = torch.from_numpy(masks).double() * scale
    if k is None:
        damped = gram[train, train] * scale.double() * scale.double()[:, None] / num
        damped.diagonal().add_(value)
        right = (torch.from_numpy(masks).double()).T
        solved = scipy.linalg.solve(damped.numpy(), right.numpy(), assume_a="pos", overwrite_a=True, check_finite=False)
        return (torch.from_numpy(solved).T * scale) @ gram[query, train].T
    projected = gaussian_from_gram(gram, k, 0, overwrite=True).double()
    rows = projected[train] * scale[:, None]
    damped = rows.T @ rows / num
    damped.diagonal().add_(value)
    solved = torch.cholesky_solve(projected[query].T, torch.linalg.cholesky(damped))
    return (summed @ projected[train]) @ solved


def sweep(num_train: int, num_test: int, k: int | None, repeats: int) -> None:
    """Print the cost of 33 values of λ against one, whole method each time."""
    task = SyntheticImages(num_train, num_test)
    model, data = task.build_model(0), task.datasets()
    rng = np.random.default_rng(0)
    masks = np.stack([rng.permutation(num_train) < num_train // 2 for _ in range(NUM_SUBSETS)])
    half = num_test // 2
    outputs = rng.normal(size=(NUM_SUBSETS, num_test - half))

    def features() -> CheckpointFeatures:
        return checkpoint_features(Probe(task, model, data, range(num_train), range(half), range(half, num_test)))

    def spectrum() -> Spectrum:
        taken = features()
        gram = taken.full_gram()
        if k is None:
            return influence_spectrum(taken, gram=gram)
        return influence_spectrum(taken, projected=gaussian_from_gram(gram, k, 0, overwrite=True))

    # The part that does not know λ is timed once for both sides: timing it twice would add the machine's mood to the
    # ratio, which is the whole method's all the same.
    expected = subset_sums([spectrum()], masks, [1e-3])[0]  # also warms up
    difference = float((cheapest_single(features(), masks, 1e-3, k) - expected).abs().max() / expected.abs().max())
    assert difference < 1e-3, f"the two ways differ by {difference:.2g}"
    base = seconds(spectrum, repeats)
    built = [spectrum()]
    ends = [
        seconds(lambda grid=grid: lds_curve(built, GroundTruth(masks, outputs), grid), repeats + 2)
        for grid in ((1e-3,), RegularizationGrid().values)
    ]
    one, many = base + ends[0], base + ends[1]
    cheapest = seconds(lambda: cheapest_single(features(), masks, 1e-3, k), repeats)
    title = f"n = {num_train}, m = {half}, {'unprojected' if k is None else f'k = {k}'}"
    print(f"{title}: gradients → spectrum → LDS with interval")
    print(f"  gradients and spectrum {base:.2f} s, then LDS with interval: one λ {ends[0]:.2f} s, 33 λ {ends[1]:.2f} s")
    print(f"  one λ {one:7.2f} s   33 λ {many:7.2f} s   ratio {many / one:.2f} (at full size at most 1.3)")
    print(f"  cheapest single λ (Cholesky solve, no spectrum, no interval) {cheapest:7.2f} s")
    print(
        f"  33 λ against the cheapest single λ: {many / cheapest:.2f}; against 33 of them: {many / cheapest / 33:.2f}"
    )


def one_query(num_train: int, k: int) -> None:
    """Print the time of one query's scores at a new λ."""
    generator = torch.Generator().manual_seed(0)
    spectrum = Spectrum(
        torch.logspace(0, -6, k, dtype=torch.float64),
        torch.randn(num_train, k, generator=generator),
        torch.randn(500, k, generator=generator),
        torch.randn(1, k, generator=generator),
        torch.rand(num_train, generator=generator),
        0,
    )
    times = []
    for index, value in enumerate(np.geomspace(1e-7, 10, 100)):
        start = time.perf_counter()
        scores([spectrum], float(value), index)
        times.append(time.perf_counter() - start)
    print(
        f"one query's scores at any λ, n = {num_train}, k = {k}: median {1e3 * statistics.median(times):.2f} ms (< 10)"
    )


def new_query() -> None:
    """Print what the Explorer computes for a new query of EK-FAC: curves, candidates, their coordinates."""
    task = load_task("mnist-mlp")
    run = TrainingRun(task, task.datasets(), range(5000), seed=0)
    (checkpoint,) = train(run, [20])
    probe = Probe(task, model_from(task, checkpoint.state), run.data, range(5000), [0], range(1, 9))
    spectrum = ekfac_spectrum(probe)
    grid = [0.0, *np.logspace(-8, 1, 49)]

    def every_product(query: int) -> Tensor:
        found = []
        for part in spectrum.parts():
            row = part.rows("query", [query]).double()
            weights = [spectrum.filter.weights(part.eigenvalues, value, spectrum.num_train) for value in grid]
            found.append(part.products((row * torch.stack(weights)).to(spectrum.dtype)))
        return torch.stack(found).sum(0)

    ways = {
        "all": lambda query: payload_of([spectrum], query, candidates([spectrum], query, grid, 27), grid),
        "curves": lambda query: score_curves([spectrum], query, grid),
        "one product a λ": every_product,
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for query in range(8):
        for name, way in ways.items():
            start = time.process_time()
            way(query)
            times[name].append(time.process_time() - start)
    torch.set_num_threads(threads)
    curves, exact = score_curves([spectrum], 0, grid), every_product(0)
    took = {name: statistics.median(each) for name, each in times.items()}
    error = float(((curves - exact).norm(dim=1) / exact.norm(dim=1)).max())
    print(f"a new query of EK-FAC, mnist-mlp, n = 5000, {len(grid)} λ, one thread, processor time")
    print(f"  all that the Explorer needs {took['all']:.2f} s (< 0.3)   its curves {took['curves']:.2f} s")
    print(f"  the same curves by one product a λ {took['one product a λ']:.2f} s; largest difference {error:.1e}")


def projection(num_vectors: int, k: int) -> None:
    """Print the draw from the Gram matrix against explicit products."""
    task = SyntheticImages(num_vectors - 2, 2)
    features = checkpoint_features(Probe(task, task.build_model(0), task.datasets(), range(num_vectors - 2), [0], [1]))
    assert features.factors is not None
    factors = features.factors
    gram_time = seconds(features.full_gram)
    gram = features.full_gram()
    draw = seconds(lambda: gaussian_from_gram(gram, k, 0))
    dense = seconds(lambda: project_factors(factors, Projection("gaussian-dense", k, 0)))
    print(f"Gaussian projection of {num_vectors} gradients of {factors.num_parameters} parameters to k = {k}")
    print(f"  Gram {gram_time:.2f} s (shared)   draw {draw:.2f} s   explicit product {dense:.2f} s")
    print(f"  draw against product: {dense / draw:.1f} × faster, {dense / (draw + gram_time):.1f} × with the Gram")


def main() -> None:
    """Print every ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes; the ratios are rougher")
    quick = parser.parse_args().quick
    print(machine())
    num_train, num_test, k = (1200, 200, 256) if quick else (5000, 1000, 2048)
    repeats = 3 if quick else 2
    one_query(5000, 2048)
    new_query()
    sweep(num_train, num_test, k, repeats)
    sweep(num_train, num_test, None, repeats)
    projection(num_train + num_test, k)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
