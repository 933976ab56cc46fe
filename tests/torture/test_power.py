"""Power cuts, full disks and jumping clocks in the middle of a run."""

from __future__ import annotations

from tests.torture.compare import State
from tests.torture.conftest import Place, attempt, randomness, times
from tests.torture.faults import CUT

OPERATIONS = 500
"""Flushes and renames of a run of the victim study, roughly; a fault that comes later does nothing."""


def test_power_cuts(place: Place, reference: State):
    """What was not flushed is lost in part, renames may be undone; the same command makes the study whole."""
    chance = randomness("power")
    cuts = 0
    for _ in range(times(2, 40)):
        with attempt("the power is cut at a random flush or rename", num=2):
            workspace = place.new()
            for at in (chance.randrange(1, OPERATIONS), chance.randrange(1, OPERATIONS)):
                ended = place.server.do(place.run(workspace, "power cut", chance.randrange(1 << 30), at))
                assert ended.wait() in (0, CUT), ended.said()
                cuts += ended.wait() == CUT
            place.finish(workspace, reference)
    assert cuts


def test_full_disks(place: Place, reference: State):
    """The run ends in one line that names it; with space again the same command goes on."""
    chance = randomness("disk")
    failed = 0
    for _ in range(times(2, 30)):
        with attempt("the disk is full at a random write"):
            workspace = place.new()
            seed, at = chance.randrange(1 << 30), chance.randrange(1, OPERATIONS // 2)
            ended = place.server.do(place.run(workspace, "full disk", seed, at))
            assert ended.wait() in (0, 1), ended.said()
            if ended.wait():
                failed += 1
                assert "tda: No space left" in ended.said()
                assert "Traceback" not in ended.said()
            place.finish(workspace, reference)
    assert failed


def test_clock_jumps(place: Place, reference: State):
    """Drops keep their order, and nothing is taken for stale or new by its date."""
    chance = randomness("clock")
    for _ in range(times(1, 20)):
        with attempt("the clock jumps by seconds to 400 days"):
            workspace = place.new()
            seed, at = chance.randrange(1 << 30), chance.choice([1, 3, 10, 40])
            ended = place.server.do(place.run(workspace, "clock", seed, at))
            assert ended.wait() == 0, ended.said()
            place.finish(workspace, reference)
