"""A stand-in accelerator: tensors of a device type of their own, computed on the CPU underneath.

PyTorch's PrivateUse1 hook gives a device type that a Python back end serves. A tensor on it wraps one on the CPU; an
operator that gets both kinds raises, as CUDA would. So code that runs on the stand-in moves its tensors rightly, and
:class:`Watch` counts how much of its work ran where. It says nothing about speed.
"""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from typing import Any, NoReturn, cast
from unittest import mock

import numpy as np
import scipy.linalg
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend
from torch.utils.flop_counter import flop_registry

NAME = "standin"
"""The device type, as in ``tensor.to("standin")``."""

aten = torch.ops.aten

_lacks_float64 = False
_memory: Memory | None = None

_CROSSES = {aten._to_copy.default, aten.copy_.default}
"""Operators that may take a tensor of each kind: they carry over."""
_INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
"""Operators whose index tensors may lie on the CPU, as they may for CUDA."""


class OnDevice(Tensor):
    """A tensor on the stand-in device.

    Attributes:
        held: The tensor on the CPU that has its numbers.
    """

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnDevice:
        if _lacks_float64 and held.dtype in (torch.float64, torch.complex128):
            raise TypeError(f"{NAME} does not support {held.dtype}.")
        return torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=torch.device(NAME, 0),
            requires_grad=False,
        )

    def __init__(self, held: Tensor) -> None:
        self.held = held
        if _memory is not None:
            _memory.hold(self)

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _computed(func, args, kwargs or {})

    def tolist(self) -> Any:
        """Return the numbers; PyTorch refuses this of a subclass, and not of a device."""
        return self.held.tolist()

    def untyped_storage(self) -> torch.UntypedStorage:
        """Return the memory of the numbers: a wrapper has none of its own."""
        return self.held.untyped_storage()

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnDevice({self.held!r})"


def _is_ours(device: Any) -> bool:
    return device is not None and torch.device(device).type == NAME


def _held(value: Any) -> Any:
    return value.held if isinstance(value, OnDevice) else value


def _wrapped(value: Any) -> Any:
    return OnDevice(value) if isinstance(value, Tensor) and not isinstance(value, OnDevice) else value


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors among an operator's arguments; PyTorch's own trees take a third of all time here."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _tensors(each)
    elif isinstance(value, dict):
        for each in value.values():
            yield from _tensors(each)


def _mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """Return arguments or results of an operator with every leaf replaced."""
    if isinstance(value, (list, tuple)):
        return type(value)([_mapped(function, each) for each in value])
    if isinstance(value, dict):
        return {name: _mapped(function, each) for name, each in value.items()}
    return function(value)


def _refuse_mixing(func, args, kwargs) -> None:
    if func in _CROSSES:
        return
    given = (args[0], args[2:]) if func in _INDEXED else (args, kwargs)
    tensors = list(_tensors(given))
    theirs = [leaf for leaf in tensors if not isinstance(leaf, OnDevice) and leaf.ndim]
    if not theirs:
        return
    ours = [leaf for leaf in tensors if isinstance(leaf, OnDevice)]
    if ours or func not in _INDEXED:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but {func} got one on {NAME}:0 and one on cpu, "
            f"of shapes {[tuple(leaf.shape) for leaf in ours]} and {[tuple(leaf.shape) for leaf in theirs]}."
        )


def _computed(func, args, kwargs) -> Any:
    """Run an operator that touches the device on the tensors underneath, and wrap what comes out."""
    _refuse_mixing(func, args, kwargs)
    to_cpu = "device" in kwargs and kwargs["device"] is not None and not _is_ours(kwargs["device"])
    if func is aten._efficientzerotensor.default:  # forward mode makes zeros without memory
        func = aten.zeros.default
    plain = {name: "cpu" if name == "device" and value is not None else value for name, value in kwargs.items()}
    result = func(*_mapped(_held, args), **_mapped(_held, plain))
    written = _written(func, args, kwargs)
    if written is not None:
        return written
    if to_cpu:
        # A copy also where none is needed underneath: another device's memory is never shared.
        return _mapped(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, result)
    return _mapped(_wrapped, result)


def _written(func, args, kwargs) -> Any:
    """Return the tensors that an operator in place, or with ``out=``, has written to; ``None`` for any other."""
    places, count = _places_written(func)
    if not places:
        return None
    given = [kwargs.get(name, args[index] if index < len(args) else None) for index, name in places]
    found = [each for each in given if isinstance(each, Tensor)]
    if not found:
        return None
    return found[0] if count == 1 else tuple(found)


@functools.cache
def _places_written(func) -> tuple[list[tuple[int, str]], int]:
    """Return which arguments an operator writes to and returns, and how many values it returns."""
    returned = func._schema.returns
    if all(each.alias_info is None for each in returned):
        return [], len(returned)
    arguments = enumerate(func._schema.arguments)
    return [(i, each.name) for i, each in arguments if each.alias_info and each.alias_info.is_write], len(returned)


class Watch(TorchDispatchMode):
    """Makes tensors on the stand-in, and counts where products and decompositions ran.

    Attributes:
        device: Operations on the stand-in device.
        cpu: Operations on the CPU, SciPy's decompositions among them.
        reads: How often a number was read from the device, each of which waits for it.
        most: The operators that cost the CPU most, name → operations.
    """

    def __init__(self) -> None:
        super().__init__()
        self.device, self.cpu, self.reads = 0.0, 0.0, 0
        self.most: dict[str, float] = {}

    @property
    def share(self) -> float:
        """The part of all operations that ran on the device."""
        return self.device / max(self.device + self.cpu, 1.0)

    def on_cpu(self, name: str, operations: float) -> None:
        """Count work on the CPU."""
        self.cpu += operations
        self.most[name] = self.most.get(name, 0.0) + operations

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        ours = any(isinstance(leaf, OnDevice) for leaf in _tensors((args, kwargs)))
        made_here = _is_ours(kwargs.get("device"))
        result = _computed(func, args, kwargs) if ours or made_here else func(*args, **kwargs)
        if ours and func is aten._local_scalar_dense.default:
            self.reads += 1
        operations = _operations(func, args, kwargs, result)
        if operations and ours:
            self.device += operations
        elif operations:
            self.on_cpu(str(func), operations)
        return result


def _operations(func, args, kwargs, result) -> float:
    packet = func._overloadpacket
    if packet in flop_registry:
        return float(flop_registry[packet](*args, **kwargs, out_val=result))
    if func is aten._linalg_eigh.default:
        return _decomposition(args[0].shape, 9.0)
    if func in (aten.linalg_cholesky_ex.default, aten.cholesky.default):
        return _decomposition(args[0].shape, 1 / 3)
    return 0.0


def _decomposition(shape, factor: float) -> float:
    return factor * prod(shape[:-2]) * shape[-1] ** 3


class Memory:
    """What tensors hold that were made on the stand-in since, and how much they may.

    Attributes:
        most: Bytes that they may hold together.
        held: Bytes that they hold.
        peak: The most that they have held.
        refused: How often there was no room for a tensor.
    """

    def __init__(self, most: float) -> None:
        self.most, self.held, self.peak, self.refused = most, 0, 0, 0
        self._uses: dict[int, int] = {}
        self._lacking: int | None = None

    def hold(self, tensor: OnDevice) -> None:
        """Count a tensor until it is freed; views share what they hold.

        Raises:
            torch.OutOfMemoryError: There is no room for it.
        """
        storage = tensor.held.untyped_storage()
        place, size = storage.data_ptr(), storage.nbytes()
        if place not in self._uses:
            if self.held + size > self.most and self._lacking is None:
                self._refuse(size)
            elif self.held + size > self.most:
                self._lacking = size
            self.held += size
            self.peak = max(self.peak, self.held)
        self._uses[place] = self._uses.get(place, 0) + 1
        weakref.finalize(tensor, self._free, place, size).atexit = False

    def _refuse(self, size: int) -> NoReturn:
        self.refused += 1
        raise torch.OutOfMemoryError(f"{NAME} out of memory. Tried to allocate {size / 2**20:.2f} MiB.")

    @contextmanager
    def on_credit(self) -> Iterator[None]:
        """Refuse only afterwards."""
        before, self._lacking = self._lacking, self._lacking or 0
        try:
            yield
        finally:
            lacking, self._lacking = self._lacking, before
        if lacking and before is None:
            self._refuse(lacking)

    def _free(self, place: int, size: int) -> None:
        self._uses[place] -= 1
        if not self._uses[place]:
            del self._uses[place]
            self.held -= size


@contextmanager
def with_memory(most: float = math.inf) -> Iterator[Memory]:
    """Let the stand-in have so many bytes for tensors that are made inside."""
    global _memory
    memory = _memory = Memory(most)
    grad = torch.autograd.grad

    def careful(*args, **kwargs):
        with memory.on_credit():  # an error of a device in Python, below a batched gradient, would end the process
            return grad(*args, **kwargs)

    try:
        with torch.autograd.set_multithreading_enabled(False), mock.patch("torch.autograd.grad", careful):
            yield memory
    finally:
        _memory = None


@contextmanager
def without_float64() -> Iterator[None]:
    """Let the stand-in refuse tensors of float64, as MPS does, and the program know that it does."""
    global _lacks_float64
    _lacks_float64 = True
    try:
        with mock.patch("tda_backend.models.probe.WITHOUT_FLOAT64", (NAME,)):
            yield
    finally:
        _lacks_float64 = False


@contextmanager
def watching() -> Iterator[Watch]:
    """Count where work runs; the stand-in's tensors can be made inside."""
    watch = Watch()
    eigh, cholesky = scipy.linalg.eigh, scipy.linalg.cholesky

    def counted_eigh(a, *args, **kwargs):
        watch.on_cpu("scipy eigh", _decomposition(np.shape(a), 9.0))
        return eigh(a, *args, **kwargs)

    def counted_cholesky(a, *args, **kwargs):
        watch.on_cpu("scipy cholesky", _decomposition(np.shape(a), 1 / 3))
        return cholesky(a, *args, **kwargs)

    with mock.patch("scipy.linalg.eigh", counted_eigh), mock.patch("scipy.linalg.cholesky", counted_cholesky), watch:
        yield watch


_library: list[torch.library.Library] = []


def _register() -> None:
    """Make the device type known to PyTorch.

    On import, for the first backward pass of a process counts the devices that there are; tests are imported before any
    is run.
    """
    _setup_privateuseone_for_python_backend(NAME)
    library = torch.library.Library("aten", "IMPL")
    _library.append(library)

    # Optimizers over lists of tensors, and copies, reach these below the dispatcher.
    def empty_strided(size, stride, *, dtype=None, layout=None, device=None, pin_memory=None):
        return OnDevice(torch.empty_strided(size, stride, dtype=dtype, layout=cast(Any, layout), device="cpu"))

    def empty(size, *, dtype=None, layout=None, device=None, pin_memory=None, memory_format=None):
        return OnDevice(torch.empty(size, dtype=dtype, device="cpu"))

    def copy_from(source, target, non_blocking=False):
        _held(target).copy_(_held(source))
        return target

    library.impl("_copy_from", copy_from, "PrivateUse1")
    library.impl("empty_strided", empty_strided, "PrivateUse1")
    library.impl("empty.memory_format", empty, "PrivateUse1")


_register()
