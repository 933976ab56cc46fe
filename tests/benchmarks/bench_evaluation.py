"""Is judging a study cheap beside retraining it?

    python -m tests.benchmarks.bench_evaluation [--quick]

1. LDS of 1 000 configurations × 500 queries × 100 subsets with 1 000 bootstrap draws, by the route a run takes (from
   spectra: subset sums, ranks, correlations, draws): under 60 s on two cores is asked for.
2. The same draws by ranking every draw anew (what the fast route replaces), timed on a few and scaled up.
3. A race over the same 1 000 candidates, to its end over 100 subsets.

Times are of the wall clock; CPU seconds beside them tell a busy machine from slow code.
"""

from __future__ import annotations

import argparse
import os
import time

import numpy as np
import torch

from tda_backend.models.training.retraining.subsets import subset_masks
from tda_backend.numerics.evaluation.bootstrap import multinomial_weights
from tda_backend.numerics.evaluation.lds import GroundTruth, lds_curve
from tda_backend.numerics.evaluation.racing import run_race
from tda_backend.numerics.spectral.contraction import scores, subset_sums
from tda_backend.numerics.spectral.coordinates import Spectrum
from tda_backend.seeds import hashed_rng
from tests.evaluation.reranked import reranked_means

GOAL_SECONDS = 60.0


def make_spectra(number: int, num_train: int, num_queries: int, dimension: int) -> Spectrum:
    """Return coordinates as a projected influence function has them: eigenvalues that fall like a power."""
    rng = hashed_rng("bench evaluation", number)
    eigenvalues = torch.from_numpy(np.sort(np.arange(1, dimension + 1) ** -1.5)[::-1].copy())
    scale = eigenvalues.sqrt().to(torch.float32)

    def rows(count: int) -> torch.Tensor:
        return torch.from_numpy(rng.standard_normal((count, dimension), dtype=np.float32)) * scale

    return Spectrum(eigenvalues, rows(num_train), rows(num_queries), rows(8), None, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the configurations")
    quick = parser.parse_args().quick
    grid = [0.0, *np.logspace(-7, 1, 32), 3e-3]
    num_train, num_queries, num_subsets, num_draws, dimension = 5000, 500, 100, 1000, 512
    num_spectra = 3 if quick else 30
    configurations = num_spectra * len(grid)
    masks = subset_masks(num_train, 0.5, num_subsets, 0)
    spectra = [make_spectra(number, num_train, num_queries, dimension) for number in range(num_spectra)]
    truth = masks @ scores([spectra[0]], 1e-3).T
    targets = truth + 2 * truth.std(0) * hashed_rng("bench noise").normal(size=truth.shape)
    print(f"load before: {os.getloadavg()[0]:.1f}; cores: {os.cpu_count()}")

    wall, cpu = time.perf_counter(), time.process_time()
    curves = [lds_curve([spectrum], GroundTruth(masks, targets), grid, num_bootstrap=num_draws) for spectrum in spectra]
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    goal = GOAL_SECONDS * configurations / 1000
    print(
        f"LDS of {configurations} configurations × {num_queries} queries × {num_subsets} subsets × {num_draws} draws: "
        f"{wall:.1f} s ({cpu:.1f} CPU s); asked for {goal:.0f} s, {goal / wall:.1f} × as fast"
    )

    few = 3
    sums = subset_sums([spectra[0]], masks, [1e-3]).numpy()[0]
    weights = multinomial_weights(num_subsets, num_draws, 0)[:few]
    slow = time.process_time()
    reranked_means(sums, targets, weights)
    slow = (time.process_time() - slow) / few * num_draws * configurations
    print(f"ranking every draw anew: {slow / 60:.0f} CPU minutes, {slow / cpu:.0f} × as long")

    predicted = np.concatenate([subset_sums([spectrum], masks, grid).numpy() for spectrum in spectra]).astype(
        np.float32
    )
    wall, cpu = time.perf_counter(), time.process_time()
    result = run_race(predicted, iter(targets), tolerance=0.0)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"race over {len(predicted)} candidates, {result.num_retrainings} looks: {wall:.1f} s ({cpu:.1f} CPU s)")
    best = max(float(curve.mean.max()) for curve in curves)
    print(f"the winner's LDS {result.lds:.3f}, the best {best:.3f}")


if __name__ == "__main__":
    main()
