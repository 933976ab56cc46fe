"""What gradients of a transformer cost: features in one pass against training's own forward and backward pass.

    python -m tests.benchmarks.bench_features [--quick]

A decoder of 9.6 million parameters (12 blocks of width 256, LayerNorm, learned positions, a head tied with the tokens),
untrained, on random tokens: costs do not depend on the values. The earlier way took a pass over all rows for each block
of parameters; one such pass is timed on the same rows and multiplied by their number.
"""

from __future__ import annotations

import argparse
import resource
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tda_backend.models.probe import Probe
from tda_backend.numerics.features.dense import Request, project_gradients
from tda_backend.numerics.features.projection import Projection
from tda_backend.types import Batch, Task
from tests.benchmarks.bench_attribution import machine, seconds

WORDS = 512
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


def plain_pass(task: Task, model: nn.Module, rows: Tensor, size: int) -> Callable[[], None]:
    """Return a forward and backward pass over rows, as training makes it, without an optimizer."""
    parameters = list(model.parameters())

    def run() -> None:
        for start in range(0, len(rows), size):
            loss = task.train_loss(model, {"x": rows[start : start + size]}).sum()
            torch.autograd.grad(loss, parameters)

    return run


def measure(num_rows: int, length: int, width: int, num_blocks: int, repeats: int) -> None:
    """Print the cost of features for one length."""
    task = RandomText(num_rows, length, width, num_blocks)
    model = task.build_model(0).eval()
    num_parameters = sum(p.numel() for p in model.parameters())
    probe, requests = Probe(task, model, task.datasets(), range(num_rows)), [Request("train", "train_loss")]
    rows = task.datasets()["train"]["x"]
    print(f"{num_rows} rows of {length} tokens, {num_parameters} parameters, k = {K}")
    best = min((seconds(plain_pass(task, model, rows, size), repeats), size) for size in (8, 16, 64))
    print(f"  plain forward and backward pass {best[0]:.2f} s (the best of batches of 8, 16 and 64: {best[1]})")
    sparse = seconds(lambda: project_gradients(probe, requests, Projection("sparse", K, 0)), repeats)
    print(f"  sparse features {sparse:.2f} s: {sparse / best[0]:.2f} plain passes (at most 1.5 beside the projection)")
    print(f"  peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


def main() -> None:
    """Print every ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes; the ratios are rougher")
    quick = parser.parse_args().quick
    print(machine())
    for length in (64, 128):
        measure(32 if quick else 128, length, 256, 12, 1 if quick else 2)


if __name__ == "__main__":
    main()
