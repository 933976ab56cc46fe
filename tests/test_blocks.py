"""Blocks are halved where memory runs out: what is redone, what is kept, what is said, and what is freed."""

from __future__ import annotations

import errno
import weakref

import pytest
import torch
from torch import Tensor

from tda_backend.blocks import MOST_HALVINGS, BlockSizes, block_size, in_blocks, sized_by, spans
from tda_backend.errors import NumericalError, OutOfMemory, asked_bytes, ran_out_of_memory
from tda_backend.models.probe import Probe
from tda_backend.models.tasks.contract import blamed
from tda_backend.numerics.features.dense import Request, project_gradients
from tda_backend.numerics.features.per_example.stream import GradientStream
from tda_backend.numerics.features.per_example.vmapped import differentiator
from tda_backend.numerics.features.projection import Projection
from tests.features.models_of_any_layer import EXPLAINED, JOINED
from tests.helpers_numerics import split_probe

CPU = "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 8 GiB."),
    RuntimeError(f"{CPU}4096 bytes. Error code 12 (Cannot allocate memory)"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
    MemoryError("Unable to allocate 1.5 MiB for an array with shape (3,)"),
    OSError(errno.ENOMEM, "no"),
    OutOfMemory("Memory ran out."),
]
TASKS = {**EXPLAINED, "lstm": JOINED["lstm"][0]}
ASKED = [2.5 * 2**30, 4096, None, None, 1.5 * 2**20, None, None]


class Room:
    """Computes squares, as long as a block fits."""

    def __init__(self, most: int, error: Exception = ERRORS[0]) -> None:
        self.most, self.error = most, error
        self.tried: list[tuple[int, int]] = []

    def __call__(self, part: slice) -> Tensor:
        self.tried.append((part.start, part.stop))
        if part.stop - part.start > self.most:
            raise self.error
        return torch.arange(part.start, part.stop) ** 2


@pytest.mark.parametrize(("error", "asked"), list(zip(ERRORS, ASKED, strict=True)))
def test_every_library_s_error_is_known(error: Exception, asked: float | None):
    assert ran_out_of_memory(error)
    assert asked_bytes(error) == asked


def test_other_errors_are_none():
    for error in (RuntimeError("shape mismatch"), NumericalError("The word out of memory."), OSError(errno.EIO, "no")):
        assert not ran_out_of_memory(error)
        room = Room(3, error)
        with pytest.raises(type(error)):
            list(in_blocks(8, 4, room, "rows"))
        assert room.tried == [(0, 4)]


@pytest.mark.parametrize("error", ERRORS)
def test_a_block_is_halved_and_finished_ones_are_kept(error: Exception):
    room = Room(3, error)
    found = list(in_blocks(21, 8, room, "rows"))
    assert [(part.start, part.stop) for part, _ in found] == [(first, min(first + 2, 21)) for first in range(0, 21, 2)]
    assert torch.equal(torch.cat([values for _, values in found]), torch.arange(21) ** 2)
    assert room.tried[:3] == [(0, 8), (0, 4), (0, 2)]
    assert len(room.tried) == 2 + 11  # no block that fitted is computed twice

    grown = Room(8, error)
    parts = []
    for part, _ in in_blocks(16, 4, grown, "rows"):
        parts.append(part)
        grown.most = 2  # another program takes memory meanwhile
    assert [part.start for part in parts] == [0, 4, 6, 8, 10, 12, 14]


def test_a_block_of_one_says_why():
    for error in ERRORS:
        room = Room(0, error)
        with pytest.raises(type(error)) as caught:
            list(in_blocks(5, 4, room, "rows"))
        assert caught.value is error
        assert room.tried == [(0, 4), (0, 2), (0, 1)]


def test_the_smaller_size_stays_and_is_said_once():
    sizes = BlockSizes()
    with sized_by(sizes):
        list(in_blocks(100, 64, Room(20), "rows"))
        assert sizes.take_remarks() == ["out of memory with blocks of 64 rows; goes on with 16"]
        again, other = Room(20), Room(100)
        list(in_blocks(100, 64, again, "rows"))
        list(in_blocks(100, 64, other, "queries"))
    assert again.tried[0] == (0, 16)
    assert other.tried[0] == (0, 64)
    assert not sizes.take_remarks()
    outside = Room(64)
    list(in_blocks(100, 64, outside, "rows"))
    assert outside.tried[0] == (0, 64)


def test_all_blocks_are_halved_a_few_times():
    sizes = BlockSizes()
    with sized_by(sizes):
        assert not sizes.halve_all()  # there was none
        assert [part.stop for part in spans(100, 64)] == [64, 100]
        list(in_blocks(100, 64, Room(4), "rows"))
        assert sizes.halve_all()
        assert sizes.take_remarks() == ["out of memory; computed again with blocks of 1/2 of their size"]
        assert [part.stop for part in spans(10, 64)] == [5, 10]  # of what there is
        assert next(in_blocks(100, 64, Room(100), "rows"))[0].stop == 32  # it was not these
        for _ in range(MOST_HALVINGS - 1):
            block_size(1000)
            assert sizes.halve_all()
        assert block_size(1000) == 1000 // 2**MOST_HALVINGS
        assert block_size(3) == 1
        assert not sizes.halve_all()
    few = BlockSizes()
    with sized_by(few):
        assert [part.stop for part in spans(2, 1)] == [1, 2]
        assert list(spans(0, 5)) == []
        assert not few.halve_all()  # blocks of one are as small as they get


def test_what_a_failed_block_held_is_free_before_the_next_try():
    held: list[weakref.ref] = []

    def compute(part: slice) -> int:
        assert [each() for each in held] == [None] * len(held)
        large = torch.zeros(part.stop - part.start)
        held.append(weakref.ref(large))

        def deeper(given: Tensor) -> None:
            if len(given) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory.")

        deeper(large)
        return len(large)

    assert [count for _, count in in_blocks(8, 8, compute, "rows")] == [2, 2, 2, 2]
    assert len(held) == 2 + 4


def test_a_person_s_code_that_runs_out_of_memory_is_told_from_one_that_fails():
    task = TASKS["conv1d"]
    with pytest.raises(OutOfMemory, match="Memory ran out in measurement"), blamed(task, "measurement"):
        raise ERRORS[1]


@pytest.mark.parametrize("kind", ["sparse", "rademacher", "gaussian-dense"])
@pytest.mark.parametrize("name", ["conv1d", "gpt", "lstm"])
@pytest.mark.parametrize("most", [1, 3])
def test_projections_do_not_depend_on_where_memory_ran_out(name: str, kind: str, most: int, monkeypatch):
    task = TASKS[name]
    probe = split_probe(task, task.build_model(0), task.datasets()["train"], range(19))
    requests, projection = [Request("train", "goodness"), Request("train", "train_loss")], Projection(kind, 12, 1)
    expected = project_gradients(probe, requests, projection)
    original, sizes = GradientStream._gradients, []

    def short(self: GradientStream, batch: dict[str, Tensor]):
        sizes.append(len(next(iter(batch.values()))))
        for index, named in enumerate(original(self, batch)):
            if index == 1 and sizes[-1] > most:
                raise torch.OutOfMemoryError("CUDA out of memory.")  # when something was added to the sums already
            yield named

    monkeypatch.setattr(GradientStream, "_gradients", short)
    found = project_gradients(probe, requests, projection)
    assert sizes[:2] == [8, 4]
    assert {size for size in sizes if size <= most} >= {min(most, 2)}
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12 * float(expected.abs().max()))


def test_running_out_of_memory_under_vmap_is_no_reason_to_differentiate_one_by_one(monkeypatch):
    task = TASKS["conv1d"]
    model = task.build_model(0)
    name = next(iter(dict(model.named_parameters())))
    gradient = differentiator(Probe(task, model, {}), "train_loss", [name])
    batch, calls = {key: value[:4] for key, value in task.datasets()["train"].items()}, []

    def failing(model, batch):
        calls.append(len(next(iter(batch.values()))))
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with monkeypatch.context() as patch:
        patch.setattr(task, "train_loss", failing)
        with pytest.raises(torch.OutOfMemoryError):
            gradient(batch)
    assert len(calls) == 1
    assert gradient(batch)[name].shape[0] == 4


def test_a_batch_that_was_not_checked_is_checked_when_it_is_passed_again(monkeypatch):
    task = TASKS["gpt"]
    probe = split_probe(task, task.build_model(0), task.datasets()["train"], range(9))
    stream, original, checked = GradientStream(probe, "train", "goodness"), GradientStream._unexplained, []

    def short(self: GradientStream, done, names, batch) -> set[str]:
        if len(done.values) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        assert done.new
        checked.append(len(done.values))
        return original(self, done, names, batch)

    monkeypatch.setattr(GradientStream, "_unexplained", short)
    list(stream.each(lambda rows, gradients: len(list(gradients))))
    assert checked[0] == 4
