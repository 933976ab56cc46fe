"""SIGKILL at random moments of a run, of its workers, of a server and of whoever owns the catalogue."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time

import psutil

from tda_backend.studies.store.workspace import Workspace
from tests.forks import Forked
from tests.torture.compare import State
from tests.torture.conftest import Place, attempt, randomness, times
from tests.torture.jobs import job


def test_runs(place: Place, reference: State, duration: float):
    """Killed again and again until it is finished, a run leaves what an undisturbed one leaves."""
    chance, wanted = randomness("runs"), times(12, 120)
    while wanted > 0:
        with attempt("a run is killed at a random moment", num=0) as kills:
            workspace = place.new()
            while (status := _run_and_kill(place, workspace, chance.uniform(0.02, 0.8) * duration)) != 0:
                assert status == -signal.SIGKILL
                kills.num += 1
            place.check(workspace, reference)
        wanted -= kills.num


def _run_and_kill(place: Place, workspace: Workspace, seconds: float) -> int:
    """Run the study, kill it after some time, and return how it ended."""
    run = place.server.start(place.run(workspace))
    run.wait_until(time.monotonic() + seconds)
    run.kill()
    status = run.wait()
    assert status in (0, -signal.SIGKILL), run.said()
    return status


def test_workers(place: Place, reference: State):
    """A worker's death ends a run with one line, or comes when it has nothing to do; the same command goes on."""
    chance = randomness("workers")
    for _ in range(times(2, 20)):
        with attempt("a worker process is killed"):
            workspace = place.new()
            run = place.server.start(place.run(workspace, "workers"))
            _kill_a_child(run, chance)
            status = run.wait()
            if status:
                assert status == 1, run.said()
                assert "hint: " in run.said()
                assert "Traceback" not in run.said()
            place.finish(workspace, reference)


def _kill_a_child(run: Forked, chance: random.Random) -> None:
    """Kill one of a run's children, a random while after the first of them appeared."""
    delay = chance.uniform(0.0, 2.0)
    while run.poll() is None:
        with contextlib.suppress(psutil.Error):
            children = psutil.Process(run.pid).children()
            if children:
                if run.wait_until(time.monotonic() + delay):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(chance.choice(children).pid, signal.SIGKILL)
                return


def test_servers(place: Place, reference: State, duration: float):
    """A server dies while a run works beside it; another one takes over, and nothing waits for ever."""
    chance = randomness("servers")
    for _ in range(times(2, 30)):
        with attempt("a server is killed beside a run"):
            workspace = place.new()
            server = _server(place, workspace)
            run = place.server.start(place.run(workspace))
            server.wait_until(time.monotonic() + chance.uniform(0.1, 1.0) * duration)
            server.kill()
            again = _server(place, workspace)
            assert run.wait() == 0, run.said()
            _wait_until_taken_in(workspace, again)
            again.kill()
            place.finish(workspace, reference)


def _server(place: Place, workspace: Workspace) -> Forked:
    """Start a server, and return when it owns the catalogue or has ended."""
    server = place.server.start(job("serve", workspace))
    deadline = time.monotonic() + 60
    while server.poll() is None and not _owns(workspace, server):
        assert time.monotonic() < deadline, server.said()
        time.sleep(0.02)
    assert server.poll() is None, server.said()
    return server


def _owns(workspace: Workspace, server: Forked) -> bool:
    from tda_backend.studies.store.owners import owner_process

    owner = owner_process(workspace)
    return owner is not None and owner.pid == server.pid


def _wait_until_taken_in(workspace: Workspace, server: Forked) -> None:
    deadline = time.monotonic() + 60
    while list(workspace.inbox.glob("*.json")):
        assert server.poll() is None, server.said()
        assert time.monotonic() < deadline, "drops wait for ever"
        time.sleep(0.02)


def test_owners(place: Place, reference: State, undisturbed: Workspace):
    """Whoever rebuilds the catalogue dies; the old one is whole, or the next rebuild makes it."""
    chance, workspace = randomness("owners"), place.copy(undisturbed)
    for _ in range(times(2, 20)):
        with attempt("a rebuild of the catalogue is killed"):
            run = place.server.start(job("rebuild", workspace))
            run.wait_until(time.monotonic() + chance.uniform(0.0, 0.4))
            run.kill()
            assert place.server.do(job("doctor", workspace, ["--repair"])).wait() == 0
            assert reference.differences(State.of(workspace)) == []
            assert not list(workspace.folder.glob(".rebuild-*"))
    place.finish(workspace, reference)


def test_both_at_once(place: Place, reference: State, duration: float):
    """Two runs of the same study, of which one is killed; and two servers, of which the first is killed."""
    chance = randomness("two")
    for _ in range(times(1, 10)):
        with attempt("two runs of one study at once, one of them killed"):
            workspace = place.new()
            first, second = (place.server.start(place.run(workspace)) for _ in range(2))
            first.wait_until(time.monotonic() + chance.uniform(0.0, 1.5) * duration)
            first.kill()
            assert second.wait() in (0, 1, 2), second.said()
            assert "Traceback" not in second.said()
            place.finish(workspace, reference)
    for _ in range(times(1, 10)):
        with attempt("two servers on one catalogue, the first of them killed"):
            workspace = place.new()
            first = _server(place, workspace)
            second = place.server.start(job("serve", workspace))
            run = place.server.start(place.run(workspace))
            first.wait_until(time.monotonic() + chance.uniform(0.0, 1.0) * duration)
            first.kill()
            assert run.wait() == 0, run.said()
            deadline = time.monotonic() + 60
            while not _owns(workspace, second):
                assert second.poll() is None, second.said()
                assert time.monotonic() < deadline, "the second server never took over"
                time.sleep(0.02)
            _wait_until_taken_in(workspace, second)
            second.kill()
            place.finish(workspace, reference)
