"""Whether another process gets the same task: what ``hash()`` of texts, the clock or a process id decide differs there.

Every run loads the task anew, and so does every process that trains: other data there would be another study.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping

from tda_backend.errors import TDAError
from tda_backend.models.checking.promises import BrokenPromise
from tda_backend.models.tasks.contract import built
from tda_backend.models.tasks.data import validate_data
from tda_backend.models.tasks.identity.values import state_digest, tensor_digest
from tda_backend.models.tasks.registry import load_task
from tda_backend.types import Task

_MARK = "task elsewhere: "
_SECONDS = 600
_HASH_SEEDS = ("1", "2")


def digests(task: Task) -> dict[str, str]:
    """Return the digest of every tensor of a task's data, and of the model of seed 0, by what it is."""
    data = validate_data(task)
    found = {f'"{key}" of split "{split}"': tensor_digest(data[split][key]) for split in data for key in data[split]}
    model = hashlib.sha256(state_digest(built(task, 0)).encode()).hexdigest()
    return {**found, "the model of build_model(0)": model}


def same_elsewhere(task: Task, spec: str) -> str:
    """Return what was compared with a process whose texts have other hashes.

    Args:
        task: The task, as this process loaded it.
        spec: What it was loaded by.

    Raises:
        BrokenPromise: The other process gets something else, or cannot load the task.
    """
    here, there = digests(task), _from_another_process(spec)
    odd = [name for name in here if here[name] != there.get(name)]
    if odd:
        raise BrokenPromise(
            f"Another process gets other values of {', '.join(odd[:3])}: every run would be another study, and workers "
            "would train on other data.",
            "Let nothing depend on hash() of a text, the order of a set, os.listdir, the clock or a process id: sort, "
            "and draw with a generator of a fixed seed.",
        )
    return f"Another process gets the same data and model ({len(here)} compared)."


def _from_another_process(spec: str) -> Mapping[str, str]:
    seed = next(each for each in _HASH_SEEDS if each != os.environ.get("PYTHONHASHSEED"))
    command = [sys.executable, "-m", __name__, spec]
    try:
        result = subprocess.run(
            command,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BrokenPromise(f"Another process did not load the task within {_SECONDS} s.") from error
    lines = [line for line in result.stdout.splitlines() if line.startswith(_MARK)]
    if not lines:
        last = (result.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        raise BrokenPromise(f"Another process cannot load the task: {last[:200]}")
    return json.loads(lines[-1].removeprefix(_MARK))


def main() -> int:
    """Print the digests of the task that is named on the command line."""
    try:
        found = digests(load_task(sys.argv[1]))
    except TDAError as error:
        sys.stderr.write(f"{error.message}\n")
        return 1
    sys.stdout.write(f"\n{_MARK}{json.dumps(found)}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
