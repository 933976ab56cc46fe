"""How time grows: exponents over examples n, parameters p and dimensions k, one thread.

    python -m tests.benchmarks.bench_growth [--quick]

Each line is one kind of work at several sizes, with the slope of log time over log size by least squares, and the slope
between the last two sizes: what holds for large ones. Gradients, spectra and evaluations take random or made-up rows:
costs do not depend on the values. Times are processor seconds; each work runs once.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tda_backend.models.probe import Probe
from tda_backend.numerics.features.checkpoint_features import InnerProducts, checkpoint_features, gradient_requests
from tda_backend.numerics.features.dense import project_gradients
from tda_backend.numerics.features.projection import Projection, project_factors
from tda_backend.numerics.spectral.contraction import score_rows, subset_sums
from tda_backend.numerics.spectral.coordinates import Spectrum
from tda_backend.numerics.spectral.decompose import RotatedRows, row_coordinates
from tda_backend.types import Batch, Task
from tests.benchmarks.bench_attribution import machine

INPUTS, CLASSES = 784, 10
K, QUERIES = 512, 200
GRID = np.logspace(-6, 1, 20).tolist()
Work = Callable[[], object]


class MadeUp(Task):
    """Random pictures for any model that takes rows of 784 numbers."""

    name = "made-up"
    margin_identity = True

    def __init__(self, model: nn.Module, num_train: int) -> None:
        self.model = model
        generator = torch.Generator().manual_seed(0)
        self._data = {
            split: {
                "x": torch.randn(num, INPUTS, generator=generator),
                "y": torch.randint(0, CLASSES, (num,), generator=generator),
            }
            for split, num in (("train", num_train), ("test", QUERIES))
        }

    def datasets(self) -> dict[str, dict[str, Tensor]]:
        """Return both splits."""
        return self._data

    def build_model(self, seed: int) -> nn.Module:
        """Return the model."""
        return self.model

    def train_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the cross-entropy, ``[b]``."""
        return F.cross_entropy(model(batch["x"]), batch["y"], reduction="none")

    def measurement(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the margin, ``[b]``."""
        logits, index = model(batch["x"]), batch["y"][:, None]
        return logits.gather(1, index)[:, 0] - logits.scatter(1, index, -torch.inf).logsumexp(1)

    def probe(self) -> Probe:
        """Return all of it as passes take it: the first half of the test rows is explained."""
        rows = range(len(self._data["train"]["y"]))
        half = QUERIES // 2
        return Probe(self, self.model, self._data, rows, range(half, QUERIES), range(half))


def perceptron(width: int) -> nn.Module:
    """Return a perceptron with two hidden layers."""
    torch.manual_seed(0)
    layers = nn.Linear(INPUTS, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, CLASSES)
    return nn.Sequential(*layers)


def normalised(width: int) -> nn.Module:
    """Return the same with LayerNorm, which has no rank-one factors."""
    first, *rest = perceptron(width)
    return nn.Sequential(first, nn.LayerNorm(width), *rest)


def num_parameters(model: nn.Module) -> int:
    """Return p."""
    return sum(parameter.numel() for parameter in model.parameters())


def projecting(model: nn.Module, num_train: int) -> Work:
    """Return work: gradients of all rows in a sparse projection."""
    probe = MadeUp(model, num_train).probe()

    def work() -> object:
        features = checkpoint_features(probe, products=InnerProducts.NONE)
        projection = Projection("sparse", K, 0)
        if features.factors is None:
            return project_gradients(probe, gradient_requests(probe.task), projection)
        return project_factors(features.factors, projection)

    return work


def rows_of(num: int, dim: int) -> Tensor:
    """Return rows whose eigenvalues decay as those of gradients do."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(num, dim, generator=generator) * torch.arange(1, dim + 1).pow(-0.75)


def decomposing(num: int, dim: int, kept: int | None = None) -> Callable[[], RotatedRows]:
    """Return work: the eigenvectors of k × k, or the largest, with all rows in them."""
    rows = rows_of(num, dim)
    return lambda: row_coordinates(rows, rows[: 2 * QUERIES], what="rows", num_eigenvalues=kept)


def spectrum_of(num: int, dim: int) -> Spectrum:
    """Return coordinates that need no decomposition."""
    train = rows_of(num, dim)
    sigma = torch.arange(1, dim + 1, dtype=torch.float64).pow(-1.5)
    return Spectrum(sigma, train, train[:QUERIES], train[:QUERIES], None, 0)


def evaluating(num: int, dim: int) -> Work:
    """Return work: sums over 50 subsets at 20 λ."""
    spectrum = spectrum_of(num, dim)
    masks = torch.rand(50, num, generator=torch.Generator().manual_seed(1)) < 0.5
    return lambda: subset_sums([spectrum], masks, GRID)


def scoring(num: int, dim: int) -> Work:
    """Return work: scores of all queries at one λ."""
    spectrum = spectrum_of(num, dim)
    return lambda: score_rows([spectrum], 1e-3)


def measure(name: str, over: str, sizes: Sequence[int], work_of: Callable[[int], Work]) -> None:
    """Print the times of one kind of work over its sizes, and the exponents."""
    seconds = []
    for size in sizes:
        work = work_of(size)
        begun = time.process_time()
        work()
        seconds.append(time.process_time() - begun)
    slope = np.polyfit(np.log(sizes), np.log(seconds), 1)[0]
    last = np.log(seconds[-1] / seconds[-2]) / np.log(sizes[-1] / sizes[-2])
    shown = ", ".join(f"{over} = {size:_}: {each:.3g} s" for size, each in zip(sizes, seconds, strict=True))
    print(f"  {name} ~ {over}^{slope:.2f} (last two: {over}^{last:.2f}); {shown}", flush=True)


def over_parameters(build: Callable[[int], nn.Module], widths: Sequence[int], num_train: int, name: str) -> None:
    """Print how time grows with p."""
    models = {num_parameters(build(width)): width for width in widths}
    measure(name, "p", list(models), lambda size: projecting(build(models[size]), num_train))


def main() -> None:
    """Print all exponents."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    print(machine())
    examples = [1000, 3000, 10_000] if quick else [1000, 3000, 10_000, 30_000, 100_000]
    dims = [128, 256, 512, 1024] if quick else [128, 512, 2048, 4096, 8192]
    widths = [13, 112, 300] if quick else [13, 112, 680, 2800]
    few = 64 if quick else 256
    small = perceptron(112)
    said = f"gradients of {num_parameters(small):_} parameters, sparse k = {K}"
    measure(said, "n", examples, lambda n: projecting(small, n))
    over_parameters(perceptron, widths, few, f"the same of a perceptron, n = {few}")
    over_parameters(normalised, widths, few, f"the same with LayerNorm, n = {few}")
    measure(f"eigenvectors of k = {K} and all rows in them", "n", examples, lambda n: decomposing(n, K))
    measure("the same, n = 10 000", "k", dims, lambda k: decomposing(10_000, k))
    largest = [k for k in dims if k > 4 * 64]
    measure("its 64 largest eigenvalues alone, n = 10 000", "k", largest, lambda k: decomposing(10_000, k, 64))
    kept = [32, 64, 128] if quick else [64, 128, 256, 512]
    size = dims[-1]
    measure(f"the r largest of k = {size:_}, n = 10 000", "r", kept, lambda r: decomposing(10_000, size, r))
    measure(f"sums over 50 subsets at 20 λ, {QUERIES} queries, k = {K}", "n", examples, lambda n: evaluating(n, K))
    measure("the same, n = 10 000", "k", dims, lambda k: evaluating(10_000, k))
    measure(f"scores of {QUERIES} queries at one λ, k = {K}", "n", examples, lambda n: scoring(n, K))
    measure("the same, n = 10 000", "k", dims, lambda k: scoring(10_000, k))


if __name__ == "__main__":
    main()
