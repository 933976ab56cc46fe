"""How much memory a computation holds at most, and what autograd keeps of it: counted from its tensors."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_COPYING = {torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default}
"""Operators that copy what they take and give into a layout of their own."""


class LivingBytes(TorchDispatchMode):
    """Counts the bytes of tensors that operators make while it is active, as long as they live.

    What operators hold within themselves is not seen; of convolutions it is as much again as they take and give.

    Attributes:
        peak: Most bytes at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak, self._now = 0, 0
        self._known: dict[int, weakref.ref] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return no: to skip the compiler it would first be loaded, which takes a second and 60 MiB."""
        return False

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        taken = {id(each): each for each in _storages(tree_leaves((args, kwargs)))}
        found = func(*args, **(kwargs or {}))
        given = {id(each): each for each in _storages(tree_leaves(found))}
        for number, storage in given.items():
            if number not in taken and number not in self._known:
                self._note(storage)
        if func in _COPYING:
            scratch = sum(each.nbytes() for each in {**taken, **given}.values())
            self.peak = max(self.peak, self._now + scratch)
        return found

    def _note(self, storage: torch.UntypedStorage) -> None:
        number, size = id(storage), storage.nbytes()

        def gone(_: weakref.ref) -> None:
            self._now -= size
            self._known.pop(number, None)

        self._known[number] = weakref.ref(storage, gone)
        self._now += size
        self.peak = max(self.peak, self._now)


def _storages(leaves: Iterable[Any]) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in leaves if isinstance(leaf, Tensor)]


def kept_bytes(run: Callable[[], object], known: Iterable[Tensor]) -> int:
    """Return how many bytes autograd keeps of a computation for its backward pass, beside some tensors.

    Args:
        run: The computation.
        known: Tensors that are there anyway: parameters, and the batch.
    """
    there = {value.untyped_storage().data_ptr() for value in known}
    kept: dict[int, int] = {}

    def note(saved: Tensor) -> Tensor:
        if (place := saved.untyped_storage().data_ptr()) not in there:
            kept[place] = saved.untyped_storage().nbytes()
        return saved

    with torch.enable_grad(), saved_tensors_hooks(note, lambda saved: saved):
        run()
    return sum(kept.values())
