"""Dropout masks that are a pure function of (training seed, epoch, layer, position in the epoch).

PyTorch's own generator gives different masks on another device, in another batching, or when models are stacked. Here
every route and device draws the same bits, on the host: row r of an epoch's mask belongs to the r-th example that the
epoch visits, whatever the batches are. A row takes whole 64-bit words, so drawing rows batch by batch or all at once
consumes one stream identically.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tda_backend.seeds import hashed_seed

_LEVELS = 1 << 16


def drop_threshold(p: float) -> int:
    """Return t such that a 16-bit draw u < t drops: the drop probability is exactly t/65536, within 8e-6 of ``p``."""
    return round(p * _LEVELS)


def keep_scale(p: float) -> float:
    """Return 1 / (exact keep probability), so that the expectation of a masked value is exactly the value."""
    keep = _LEVELS - drop_threshold(p)
    return _LEVELS / keep if keep else 0.0


class MaskStream:
    """The masks of one dropout layer during one epoch, drawn in order.

    Args:
        seed: Training seed.
        epoch: 1-based epoch.
        layer: Position of the dropout layer among the model's layers with p > 0.
        p: Drop probability.
    """

    def __init__(self, seed: int, epoch: int, layer: int, p: float) -> None:
        self._words = np.random.SFC64(hashed_seed("dropout", seed, epoch, layer))
        self._threshold = drop_threshold(p)

    def draw(self, rows: int, width: int) -> np.ndarray:
        """Return the keep mask of the next ``rows`` examples, bool ``[rows, width]``."""
        words = -(-width // 4)
        draws = self._words.random_raw(rows * words).view(np.uint16).reshape(rows, 4 * words)
        return draws[:, :width] >= self._threshold


MaskSource = Callable[["HashedDropout", Tensor], Tensor]


class HashedDropout(nn.Dropout):
    """``nn.Dropout`` whose masks come from a source that the training loop sets; without one it is ``nn.Dropout``.

    Attributes:
        layer: Position among the model's dropout layers with p > 0.
        source: Gives the keep mask for an input, of the input's shape, or ``None`` outside our loops.
    """

    def __init__(self, p: float, layer: int) -> None:
        super().__init__(p)
        self.layer = layer
        self.source: MaskSource | None = None

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return input
        if self.source is None:
            return functional.dropout(input, self.p, True)
        return input * self.source(self, input) * keep_scale(self.p)


def hash_dropout(model: nn.Module) -> list[HashedDropout]:
    """Replace every ``nn.Dropout`` inside ``model`` by :class:`HashedDropout`, in place; names do not change.

    Other kinds (``Dropout2d``, ``functional.dropout``) keep PyTorch's generator: reproducible one model at a time, but
    such models cannot be stacked.
    """
    replaced: dict[int, HashedDropout] = {}
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Dropout:
                if id(child) not in replaced:
                    active = sum(layer.p > 0 for layer in replaced.values())  # layers that never drop do not count
                    replaced[id(child)] = HashedDropout(child.p, active).train(child.training)
                setattr(module, name, replaced[id(child)])
            elif isinstance(child, HashedDropout):
                replaced.setdefault(id(child), child)
    return list(replaced.values())


class EpochMasks:
    """Mask source of one model for one epoch: draws from the layer's stream as the model calls for it."""

    def __init__(self, layers: Sequence[HashedDropout], seed: int, epoch: int) -> None:
        self._streams = {layer.layer: MaskStream(seed, epoch, layer.layer, layer.p) for layer in layers}

    def draw(self, layer: int, shape: Sequence[int]) -> Tensor:
        """Return the next keep mask of ``layer``, bool of ``shape`` with the examples along the leading axis."""
        rows = shape[0]
        width = int(np.prod(shape[1:], dtype=np.int64))
        return torch.from_numpy(self._streams[layer].draw(rows, width)).reshape(tuple(shape))

    def __call__(self, module: HashedDropout, input: Tensor) -> Tensor:
        return self.draw(module.layer, input.shape).to(input.device)
