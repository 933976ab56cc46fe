"""Training processes: nothing is left behind, whoever dies first, and any program may start them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from tda_backend.errors import MachineError, TaskError
from tda_backend.models.tasks.data import validate_data
from tda_backend.models.tasks.registry import load_task
from tda_backend.models.training.retraining.plan import Retraining
from tda_backend.models.training.retraining.processes import (
    ProcessPool,
    close_pool,
    default_num_processes,
    num_warm_processes,
    shared_pool,
)
from tda_backend.models.training.retraining.retraining import retrain_subsets
from tda_backend.models.training.retraining.subsets import subset_masks
from tests.training.tiny import NUM_TRAIN, TinyTask

ROOT = Path(__file__).resolve().parent.parent.parent
LONG = """
    import sys, torch
    from tda_backend.models.tasks.data import validate_data
    from tda_backend.models.training.retraining.plan import Retraining
    from tda_backend.models.training.retraining.processes import shared_pool
    from tda_backend.models.training.retraining.retraining import retrain_subsets
    from tda_backend.models.training.retraining.subsets import subset_masks
    from tests.training.tiny import NUM_TRAIN, TinyTask
    task = TinyTask(torch.float32, num_epochs={epochs})
    def report(done, total):
        if done:
            print(*shared_pool().pids, flush=True)
    masks = subset_masks(NUM_TRAIN, 0.5, 2, 0)
    retraining = Retraining(task, validate_data(task), range(NUM_TRAIN), masks, [0, 1], repeats=1, seed=0)
    out = retrain_subsets(retraining, num_processes=2, on_progress=report)
    print("sum", float(out.sum()), flush=True)
"""


@pytest.fixture(autouse=True)
def _no_process_outlives_its_test():
    yield
    close_pool()


def retrained(task, num_processes, **options):
    """Retrain two subsets of the tiny task."""
    masks = subset_masks(NUM_TRAIN, 0.5, 2, 0)
    data = validate_data(task)
    return retrain_subsets(
        Retraining(task, data, range(NUM_TRAIN), masks, [0, 1], repeats=1, seed=0),
        num_processes=num_processes,
        **options,
    )


def started(epochs: int) -> tuple[subprocess.Popen, list[psutil.Process]]:
    """Start a parent that retrains from standard input, and return it with its training processes."""
    parent = subprocess.Popen(
        [sys.executable, "-"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    parent.stdin.write(textwrap.dedent(LONG.format(epochs=epochs)))
    parent.stdin.close()
    return parent, [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_processes_end_with_their_parent(sent):
    parent, children = started(epochs=10**6)
    assert len(children) == 2
    assert all(child.is_running() for child in children)
    parent.send_signal(sent)
    parent.wait(timeout=20)
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive


def test_a_program_on_standard_input_can_use_processes_and_gets_the_same_bits():
    parent, _ = started(epochs=5)
    assert parent.stdout is not None
    last = parent.stdout.read().splitlines()[-1]
    assert parent.wait(timeout=60) == 0
    assert last == f"sum {float(retrained(TinyTask(torch.float32, num_epochs=5), 1).sum())}"


def test_a_script_without_main_guard_can_use_processes(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(LONG.format(epochs=3)))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, env=environment, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("sum ") == 1


def test_a_killed_process_is_reported_and_replaced():
    task = TinyTask(torch.float32, num_epochs=10**6)

    def kill(done: int, total: int) -> None:
        if done:
            psutil.Process(shared_pool().pids[0]).kill()

    with pytest.raises(MachineError, match="signal 9") as caught:
        retrained(task, 2, on_progress=kill)
    assert "memory" in caught.value.hint
    assert num_warm_processes() == 0
    assert np.isfinite(retrained(TinyTask(torch.float32), 2)).all()


def test_an_interrupt_in_the_parent_ends_the_processes():
    pids: list[int] = []

    def interrupt(done: int, total: int) -> None:
        if done:
            pids.extend(shared_pool().pids)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        retrained(TinyTask(torch.float32, num_epochs=10**6), 2, on_progress=interrupt)
    assert pids
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_processes_persist_between_calls_and_use_one_thread():
    retrained(TinyTask(torch.float32), 2)
    workers = shared_pool().pids
    assert len(workers) == 2
    retrained(TinyTask(torch.float32), 2)
    assert shared_pool().pids == workers
    # The main thread and the one that watches the parent; none for arithmetic.
    assert all(psutil.Process(pid).num_threads() <= 2 for pid in workers)


def test_two_threads_of_one_program_take_turns():
    task = TinyTask(torch.float32)
    expected, found = retrained(task, 1), {}
    threads = [threading.Thread(target=lambda i=i: found.update({i: retrained(task, 2)})) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    for i in range(2):
        np.testing.assert_array_equal(found[i], expected)


def test_a_persons_task_file_trains_in_processes_and_its_errors_and_prints_stay_readable(tmp_path):
    (tmp_path / "neighbour.py").write_text("RATE = 0.1\n")
    path = tmp_path / "mine.py"
    path.write_text(
        textwrap.dedent(
            """
            import torch
            from neighbour import RATE
            from tests.training.tiny import NormTask

            class Loud(NormTask):
                name = "loud"
                def train_loss(self, model, batch):
                    print("a line on standard output")
                    return super().train_loss(model, batch)

            class Broken(NormTask):
                name = "broken"
                def train_loss(self, model, batch):
                    raise ValueError("no such column")
            """
        )
    )
    loud = load_task(f"{path}:Loud")
    np.testing.assert_array_equal(retrained(loud, 2), retrained(loud, 1))
    with pytest.raises(TaskError, match="ValueError: no such column"):
        retrained(load_task(f"{path}:Broken"), 2)


def test_a_task_made_by_hand_that_processes_cannot_load_trains_here():
    from tests.training.tiny import NormTask

    assert np.isfinite(retrained(NormTask(torch.float32), 2)).all()
    assert num_warm_processes() == 0


def test_a_pool_that_cannot_start_says_so(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(MachineError, match="cannot be started"):
        ProcessPool().start(1)
    assert np.isfinite(retrained(TinyTask(torch.float32), 2)).all()  # and retraining does without


def test_processes_notice_another_parent_even_if_a_fork_holds_their_input():
    program = """
        import os, time
        from tda_backend.models.training.retraining.processes import shared_pool
        pool = shared_pool()
        pool.start(1)
        print(*pool.pids, flush=True)
        if os.fork() == 0:
            time.sleep(30)
        time.sleep(30)
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    forks = [other for other in psutil.Process(parent.pid).children() if other.pid != child.pid]
    parent.kill()
    parent.wait(timeout=20)
    gone, _ = psutil.wait_procs([child], timeout=20)
    for fork in forks:
        fork.kill()
    assert gone


def test_no_more_processes_by_default_than_memory_and_cores_allow(monkeypatch):
    assert 1 <= default_num_processes() <= (os.cpu_count() or 1)
    memory = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory._replace(available=1 << 20))
    assert default_num_processes() == 1
