"""Does the engine show what is known of LDS(λ) and ξ(λ) on MNIST with a perceptron?

    python -m tests.benchmarks.bench_facts [--quick]

The setting: 4 000 training images, 500 queries, 500 validation points, MLP 784-128-64-10, SGD 0.01 with momentum 0.9,
batch 64, 30 epochs, no dropout, 50 half-size subsets trained 30 epochs from other initialisations, unprojected IFFIM.
One difference to the runs the reference values come from: the last partial batch is kept, not dropped. The subsets,
seeds and images differ too, so the values agree within noise only (the interval of one LDS value is about ±0.03).

Expected at every epoch: LDS rises and falls over λ with one peak; mean ξ rises from 0 to 1 like a sigmoid; the λ where
it passes 0.5 is close to the best; early epochs are a little better; λ → ∞ gives about 0.15.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from torch import nn

from tda_backend.models.probe import Probe
from tda_backend.models.tasks import MnistMLP
from tda_backend.models.tasks.data import as_batch
from tda_backend.models.training.fit import model_from, train
from tda_backend.models.training.retraining.plan import Retraining
from tda_backend.models.training.retraining.retraining import retrain_subsets
from tda_backend.models.training.retraining.subsets import subset_masks
from tda_backend.models.training.run import TrainingRun
from tda_backend.numerics.attribution.influence import influence_spectrum
from tda_backend.numerics.evaluation.indicator import indicator_curve
from tda_backend.numerics.evaluation.lds import GroundTruth, lds_curve
from tda_backend.numerics.evaluation.selection import select_regularization
from tda_backend.numerics.features.checkpoint_features import checkpoint_features
from tda_backend.seeds import hashed_rng, hashed_seed
from tda_backend.types import TrainingSettings

# epoch → (LDS at λ = 1e-7 or None, best λ, best LDS, selected λ, LDS there), of earlier runs of the same setting
REFERENCE = {
    1: (None, None, 0.408, None, 0.324),
    5: (None, 3e-2, 0.464, 1e-1, 0.451),
    10: (None, 1e-2, 0.425, 1.8e-2, 0.420),
    20: (None, 5.6e-4, 0.423, 1e-3, 0.420),
    30: (0.167, 1.8e-4, 0.412, 1.8e-4, 0.412),
}
GRID = np.logspace(-7, 4, 45)
SEED = 0


class PlainMLP(MnistMLP):
    """The same perceptron, 30 epochs and without dropout."""

    name = "mnist-mlp-plain"
    training = TrainingSettings(num_epochs=30, batch_size=64, learning_rate=0.01, momentum=0.9)

    def build_model(self, seed: int) -> nn.Module:
        """Return 784-128-64-10 with ReLU from ``seed``."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))


def measure(num_train: int, num_queries: int, num_subsets: int, epochs: list[int]) -> list[dict[str, float]]:
    """Return one row per epoch: LDS at the ends of the grid, at its best and at the selected λ, and shape checks."""
    task = PlainMLP()
    data = {split: as_batch(batch) for split, batch in task.datasets().items()}
    train_indices = np.sort(hashed_rng("facts train", SEED).permutation(7000)[:num_train])
    test = hashed_rng("facts test", SEED).permutation(2000)
    validation, queries = np.sort(test[:num_queries]), np.sort(test[num_queries : 2 * num_queries])
    masks = subset_masks(num_train, 0.5, num_subsets, SEED)
    outputs = retrain_subsets(
        Retraining(task, data, train_indices, masks, list(range(num_subsets)), repeats=1, seed=SEED)
    )
    targets = np.asarray(outputs).mean(axis=1)[:, queries]
    rows = []
    for checkpoint in train(TrainingRun(task, data, train_indices, hashed_seed("facts", SEED)), epochs):
        model = model_from(task, checkpoint.state)
        features = checkpoint_features(Probe(task, model, data, train_indices, validation, queries))
        spectra = [influence_spectrum(features, gram=features.full_gram())]
        selection = select_regularization(spectra)
        grid = np.sort(np.append(GRID, selection.regularization))
        curve = lds_curve(spectra, GroundTruth(masks, targets), grid)
        mean = np.asarray(curve.mean)
        chosen = int(np.searchsorted(grid, selection.regularization))
        xi = np.asarray(indicator_curve(spectra, GRID).mean)
        best = int(mean.argmax())
        rows.append(
            {
                "epoch": checkpoint.epoch,
                "lds_low": float(mean[0]),
                "lambda_best": float(grid[best]),
                "lds_best": float(mean[best]),
                "ci_low": float(curve.ci_low[best]),
                "ci_high": float(curve.ci_high[best]),
                "lambda_selected": selection.regularization,
                "lds_selected": float(mean[chosen]),
                "lds_infinity": float(mean[-1]),
                "wrong_way": wrong_way(mean, best),
                "xi_falls": float(np.clip(-np.diff(xi), 0, None).max()),
                "xi_low": float(xi[0]),
                "xi_high": float(xi[-1]),
            }
        )
    return rows


def wrong_way(mean: np.ndarray, best: int) -> float:
    """Return the largest step against a curve with one peak: a fall before it or a rise after it."""
    steps = np.diff(mean)
    against = np.concatenate([-steps[:best], steps[best:], [0.0]])
    return float(against.max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1 500 training images, 20 subsets, three epochs")
    quick = parser.parse_args().quick
    epochs = [1, 5, 30] if quick else sorted(REFERENCE)
    rows = measure(1500, 200, 20, epochs) if quick else measure(4000, 500, 50, epochs)
    print("Known facts, MNIST + MLP without dropout, unprojected IFFIM" + (" (quick size)" if quick else ""))
    print(
        f"{'epoch':>5} {'LDS at 1e-7':>12} {'best λ':>9} {'best LDS [95 % CI]':>22} {'ξ̄=.5 picks':>11}"
        f" {'LDS there':>10}"
        f" {'λ→∞':>6}   reference: best, picked"
    )
    for row in rows:
        _, best_at, best, picked_at, picked = REFERENCE[int(row["epoch"])]
        reference = f"{best:.3f}" + (f" at {best_at:.1e}" if best_at else "") + f", {picked:.3f}"
        reference += f" at {picked_at:.1e}" if picked_at else ""
        print(
            f"{row['epoch']:5.0f} {row['lds_low']:12.3f} {row['lambda_best']:9.1e}"
            f" {row['lds_best']:8.3f} [{row['ci_low']:.3f}, {row['ci_high']:.3f}]"
            f" {row['lambda_selected']:11.1e} {row['lds_selected']:10.3f} {row['lds_infinity']:6.3f}   {reference}"
        )
    print(
        f"largest step against a single peak: {max(r['wrong_way'] for r in rows):.4f};"
        f" largest fall of mean ξ: {max(r['xi_falls'] for r in rows):.4f};"
        f" mean ξ from {max(r['xi_low'] for r in rows):.3f} to {min(r['xi_high'] for r in rows):.3f};"
        f" largest regret of ξ̄=.5: {max(r['lds_best'] - r['lds_selected'] for r in rows):.3f}"
    )


if __name__ == "__main__":
    main()
