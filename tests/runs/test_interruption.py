"""Ctrl-C within seconds, even while one instruction takes minutes; and a process that ends without a word."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.runs.conftest import ROOT, make_study, tda

# One instruction that lets no other Python code run, as a decomposition by LAPACK is: only the system hears a signal.
DEAF = """
import json, sys
from pathlib import Path
from tda_backend.interfaces.cli import interruption
interruption.GRACE_SECONDS = 1.0
with interruption.interruptible(Path(sys.argv[1]), "tda run 'my study'"):
    print("working", flush=True)
    {work}
print("ended", flush=True)
"""
DEAFNESS = "sum(range(10**13))"  # one call that takes hours and looks at no signal


_started: list[subprocess.Popen] = []


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """End what a failing test has started: it would go on for hours."""
    yield
    while _started:
        process = _started.pop()
        process.kill()
        process.wait()


def started(folder: Path, work: str) -> subprocess.Popen:
    job = folder / "job.json"
    job.write_text(json.dumps({"job_id": "j", "status": "running"}))
    process = subprocess.Popen(
        [sys.executable, "-c", DEAF.format(work=work), str(job)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    _started.append(process)
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    return process


def at_work(process: subprocess.Popen) -> None:
    """Wait until the process has been in its one call for a while."""
    seen = psutil.Process(process.pid).cpu_times().user
    while psutil.Process(process.pid).cpu_times().user < seen + 0.5:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_deaf_run_ends_within_seconds(tmp_path: Path, number: signal.Signals):
    process = started(tmp_path, DEAFNESS)
    at_work(process)
    begun = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - begun < 30
    assert out == ""
    assert process.returncode == -signal.SIGKILL
    assert "go on with: tda run 'my study'" in err
    state = json.loads((tmp_path / "job.json").read_text())
    assert (state["status"], state["message"]) == ("cancelled", "Interrupted.")


def test_a_run_that_hears_ends_by_itself(tmp_path: Path):
    work = """
    import time
    try:
        print("waiting", flush=True)
        time.sleep(600)
    except KeyboardInterrupt: pass
"""
    process = started(tmp_path, work)
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (out, err, process.returncode) == ("ended\n", "", 0)
    assert json.loads((tmp_path / "job.json").read_text())["status"] == "running"  # whoever heard it writes the end


def test_a_process_that_ends_without_a_word_is_reported(tmp_path: Path):
    process = started(tmp_path, "import os; os._exit(7)")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 7
    assert "ended without a word" in err
    assert "go on with: tda run 'my study'" in err


def test_what_is_ignored_stays_ignored(tmp_path: Path):
    """A run under nohup outlives its terminal."""
    work = "import os; os.kill(os.getpid(), signal.SIGHUP)"
    process = subprocess.Popen(
        [sys.executable, "-c", "import signal; signal.signal(1, signal.SIG_IGN)\n" + DEAF.format(work=work), "x"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    out, err = process.communicate(timeout=60)
    assert (out, err) == ("working\nended\n", "")


POOL = """
    import multiprocessing
    child = multiprocessing.get_context("fork").Process(target=sum, args=(range(10**13),))
    child.start()
    print(child.pid, flush=True)
    sys.stdin.readline()
    child.kill()
    child.join()
"""


def test_a_signal_to_a_forked_child_does_not_end_the_run(tmp_path: Path):
    """A child of a pool inherits what the run has set up; a signal to it, while it hears none, is none to the run."""
    (tmp_path / "job.json").write_text(json.dumps({"job_id": "j", "status": "running"}))
    process = subprocess.Popen(
        [sys.executable, "-c", DEAF.format(work=POOL), str(tmp_path / "job.json")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    child = psutil.Process(int(process.stdout.readline()))
    child.terminate()
    deadline = time.monotonic() + 60
    while child.status() != psutil.STATUS_ZOMBIE:  # a child that is told to end ends, as without the run's own ways
        assert time.monotonic() < deadline
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(3.0)  # longer than the watcher's patience
    out, err = process.communicate("go on\n", timeout=60)
    assert (out, err, process.returncode) == ("ended\n", "", 0)
    assert json.loads((tmp_path / "job.json").read_text())["status"] == "running"


HOSTILE = {
    "hangs": ("    def datasets(self):\n", "        while True: pass\n", "has not returned within 2 s"),
    "exits": ("    def build_model(self, seed):\n", "        raise SystemExit(3)\n", "ended the program (sys.exit(3))"),
    "vanishes": ("    def build_model(self, seed):\n", "        import os; os._exit(9)\n", "ended without a word"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_task_that_does_not_come_back_is_reported(tmp_path: Path, kind: str):
    study = make_study(tmp_path)
    where, line, words = HOSTILE[kind]
    path = tmp_path / "tiny_task.py"
    path.write_text(path.read_text().replace(where, where + line))
    environment = {"TDA_TASK_SECONDS": "2"} if kind == "hangs" else {"TDA_TASK_SECONDS": "600"}
    result = tda("run", study, db=tmp_path / "c.duckdb", env=environment)
    assert result.returncode == {"vanishes": 9}.get(kind, 1)
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert "unexpected" not in result.stderr


def test_memory_that_is_limited_is_said_in_our_words(tmp_path: Path):
    study = make_study(tmp_path)
    path = tmp_path / "tiny_task.py"
    path.write_text(
        path.read_text().replace("    def datasets(self):\n", "    def datasets(self):\n        torch.empty(1 << 40)\n")
    )
    result = tda("run", study, db=tmp_path / "c.duckdb")
    assert result.returncode == 1
    assert "Memory ran out in datasets()" in result.stderr
    assert "alloc" not in result.stderr
    words = [sys.executable, "-m", "tda_backend", "run", "mnist-lr", "--db", str(tmp_path / "d.duckdb")]
    words += ["--set", "data.train=7000", "--set", "projection.max_dim=2000000"]
    limited = subprocess.run(
        ["bash", "-c", 'ulimit -v 3000000; exec "$@"', "-", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert limited.returncode == 1
    assert "GiB of memory; this machine has" in limited.stderr
