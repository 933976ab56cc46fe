"""What gradients of a transformer cost: features in one pass against training's own forward and backward pass.

    python -m tests.benchmarks.bench_features [--quick]

A decoder of 9.6 million parameters (12 blocks of width 256, LayerNorm, learned positions, a head tied with the tokens),
untrained, on random tokens: costs do not depend on the values. The earlier way took a pass over all rows for each block
of parameters; one such pass over some rows is timed and multiplied.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tda_backend.models.probe import Probe
from tda_backend.numerics.features.dense import Request, dense_gradient_blocks, project_gradients
from tda_backend.numerics.features.per_example.stream import GradientStream, NamedContributions
from tda_backend.numerics.features.per_example.sums import Buckets, ProductSums, SparseSums
from tda_backend.numerics.features.projection import Projection
from tda_backend.types import Batch, Task
from tests.benchmarks.bench_attribution import machine

WORDS = 512
WIDTH, NUM_BLOCKS = 256, 12
K = 2048


class Block(nn.Module):
    """Causal attention and a feed-forward layer, both behind a norm."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.before, self.behind = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.attend(self.before(x)).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*parts.unbind(0), is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.narrow(F.gelu(self.wide(self.behind(x))))


class Decoder(nn.Module):
    """Tokens, learned positions, blocks, and a head tied with the tokens."""

    def __init__(self, length: int, width: int, num_blocks: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(WORDS, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, 4) for _ in range(num_blocks)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, WORDS, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        return self.head(self.norm(self.blocks(self.tokens(tokens) + self.positions(places))))


class RandomText(Task):
    """Random tokens; the loss is a sequence's mean over positions."""

    name = "random-text"
    measurement_sign = -1

    def __init__(self, num_rows: int, length: int, width: int, num_blocks: int) -> None:
        self._shape = (length, width, num_blocks)
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(0, WORDS, (num_rows, length + 1), generator=generator)
        self._data = {"train": {"x": tokens}, "test": {"x": tokens}}

    def datasets(self) -> dict[str, dict[str, Tensor]]:
        """Return both splits."""
        return self._data

    def build_model(self, seed: int) -> nn.Module:
        """Return the decoder."""
        torch.manual_seed(seed)
        return Decoder(*self._shape)

    def train_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean cross-entropy of each sequence."""
        logits = model(batch["x"][:, :-1])
        return F.cross_entropy(logits.transpose(1, 2), batch["x"][:, 1:], reduction="none").mean(1)

    def measurement(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the loss."""
        return self.train_loss(model, batch)


def processor_seconds(run: Callable[[], object], repeats: int = 1) -> float:
    """Return the processor time of the fastest of some runs, which other programs disturb less than the clock."""
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        run()
        best = min(best, time.process_time() - start)
    return best


def plain_pass(task: Task, model: nn.Module, rows: Tensor, size: int) -> Callable[[], None]:
    """Return a forward and backward pass over rows, as training makes it, without an optimizer."""
    parameters = list(model.parameters())

    def run() -> None:
        for start in range(0, len(rows), size):
            loss = task.train_loss(model, {"x": rows[start : start + size]}).sum()
            torch.autograd.grad(loss, parameters)

    return run


class Nowhere:
    """Takes gradients and forgets them."""

    block = 1

    def add(self, first: int, values: Tensor) -> None:
        """Forget entries."""

    def add_rows(self, first: int, index: Tensor, values: Tensor) -> None:
        """Forget rows."""


def measure(num_rows: int, length: int, repeats: int) -> None:
    """Print the cost of features for one length."""
    task = RandomText(num_rows, length, WIDTH, NUM_BLOCKS)
    model = task.build_model(0).eval()
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    probe, requests = Probe(task, model, task.datasets(), range(num_rows)), [Request("train", "train_loss")]
    rows, projection = task.datasets()["train"]["x"], Projection("sparse", K, 0)
    total = sum(sizes.values())
    print(f"{num_rows} rows of {length} tokens, {total} parameters, k = {K}; processor time")

    def without_sums() -> None:
        def form(rows: slice, gradients: NamedContributions) -> None:
            for _, contributions in gradients:
                for contribution in contributions:
                    contribution.give(Nowhere())

        list(GradientStream(probe, "train", "train_loss").each(form))

    sparse = processor_seconds(lambda: project_gradients(probe, requests, projection), repeats)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    formed = processor_seconds(without_sums, repeats)
    drawn = processor_seconds(lambda: [Buckets(projection, sizes, torch.device("cpu")).of(name) for name in sizes])
    plain, size = min((processor_seconds(plain_pass(task, model, rows, size), repeats), size) for size in (8, 16))
    print(f"  plain forward and backward pass {plain:.2f} s (in batches of {size}, the better of 8 and 16)")
    print(f"  every gradient formed and forgotten {formed:.2f} s: {formed / plain:.2f} plain passes (at most 1.5)")
    print(f"  sparse features {sparse:.2f} s: {sparse / plain:.2f} plain passes; the draw takes {drawn:.2f} s of them")
    print(f"  peak memory until then {peak:.2f} GiB")
    earlier_way(probe, total, (sparse - drawn) / num_rows)


def sums_rate() -> None:
    """Print how fast entries are added to their buckets, against copying memory."""
    buckets = Buckets(Projection("sparse", K, 0), {"weight": 2**16}, torch.device("cpu"))
    slab, sink = torch.randn(16, 2**16), SparseSums(buckets, 16, torch.float32).of("weight")
    rate = 4e-9 * slab.numel() / processor_seconds(lambda: sink.add(0, slab), 20)
    copied = 4e-9 * 2**26 / processor_seconds(copy(), 5)
    print(f"entries are added at {rate:.1f} GB/s, {rate / copied:.0%} of {copied:.1f} GB/s, at which memory is copied")


def products_rate(size: int) -> None:
    """Print how fast a batch is multiplied by signs that are drawn for it, against a product of large matrices."""
    projection, entries = Projection("rademacher", K, 0), 2**16
    slab, result = torch.randn(size, entries), torch.zeros(size, K)
    sink = ProductSums(projection, {"weight": entries}, result).of("weight")
    rate = 2e-9 * size * entries * K / processor_seconds(lambda: sink.add(0, slab), 3)
    square = torch.randn(2048, 2048)
    most = 2e-9 * 2048**3 / processor_seconds(lambda: square @ square, 3)
    print(f"rademacher, batches of {size}: {rate:.0f} GFLOP/s with the draw, {rate / most:.0%} of {most:.0f} GFLOP/s")


def copy() -> Callable[[], object]:
    """Return a copy of 256 MiB, whose rate is the machine's."""
    source = torch.zeros(2**26)
    target = torch.zeros_like(source)
    return lambda: target.copy_(source)


def earlier_way(probe: Probe, num_parameters: int, now: float) -> None:
    """Print what a pass for each block of parameters would take for 5 000 rows, from one such pass over 16 of them."""
    few, num = probe.only("train", range(16)), 5000
    block = 2**26 // num // 2048 * 2048
    requests = [Request("train", "train_loss")]
    passes = -(-num_parameters // block)
    passed = processor_seconds(lambda: next(dense_gradient_blocks(few, requests, budget_numbers=16 * block)), 3)
    print(
        f"  {num} rows: {num * now:.0f} s; a pass for each of {passes} blocks of {block} parameters (one pass over 16 "
        f"rows: {passed:.2f} s) {passed * passes * num / 16:.0f} s, {passed * passes / 16 / now:.0f} times that"
    )


def main() -> None:
    """Print every ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes; the ratios are rougher")
    quick = parser.parse_args().quick
    print(machine())
    for length in (64, 128):
        measure(32 if quick else 64, length, 1 if quick else 2)
    sums_rate()
    for size in (8, 16, 64):
        products_rate(size)


if __name__ == "__main__":
    main()
