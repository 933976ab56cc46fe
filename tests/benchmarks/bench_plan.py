"""How right plans are: predicted time and memory of every step beside what it took, over eight tasks.

    python -m tests.benchmarks.bench_plan [--quick] [--only TASK ...]

A study is computed in one new process, as ``tda run`` does. Before each step it gives back what it has freed and
forgets its peak; by how much it then grows, with what steps before hold in memory for it, is what the step takes beside
program and data. Times are of the processor, on one thread,
as other programs may want it too, but for steps that train in processes of their own, whose wall time counts. Steps
below half a second are lumped together. Asked: a factor of 2 in time and of 1.3 in memory, and so we ask of the disk.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tda_backend.studies.pipeline.backend import Ended, LocalBackend
from tda_backend.studies.pipeline.executor import execute
from tda_backend.studies.steps.table import KINDS
from tda_backend.studies.store.artifacts import ArtifactStore
from tda_backend.studies.store.workspace import Workspace
from tests.benchmarks.bench_scale import Quiet, peak_mib, planned
from tests.benchmarks.scale_tasks import write_study

TIME_RATIO, MEMORY_RATIO, DISK_RATIO = 2.0, 1.3, 1.3
SHORT_SECONDS = 0.5
"""Steps that take, and were to take, less are lumped together."""


@dataclass(frozen=True)
class Asked:
    """A study of the bench.

    Attributes:
        task: Of :mod:`tests.benchmarks.scale_tasks`.
        num_train: n.
        num_quick: n of ``--quick``.
        more: What else of :func:`write_study`.
    """

    task: str
    num_train: int
    num_quick: int
    more: Mapping[str, Any]


STUDIES = {
    "perceptron": Asked("perceptron", 5000, 2000, {"num_subsets": 8}),
    "cnn": Asked("cnn", 5000, 1000, {"num_subsets": 8}),
    "large-cnn": Asked("large_cnn", 1000, 300, {}),
    "resnet9": Asked("resnet9", 400, 100, {"num_queries": 50, "num_validation": 50}),
    "bert": Asked("bert", 1000, 300, {"num_queries": 50, "num_validation": 50}),
    "gpt": Asked("gpt", 1000, 300, {"num_queries": 50, "num_validation": 50}),
    "lora": Asked("lora", 1000, 300, {"num_queries": 50, "num_validation": 50}),
    "table": Asked("table", 20_000, 5000, {"num_subsets": 8}),
    "n = 50 000": Asked("perceptron", 50_000, 10_000, {}),
    "exact": Asked("perceptron", 4000, 1500, {"dim": "none"}),
}


@dataclass(frozen=True)
class Compared:
    """A prediction beside what was measured.

    Attributes:
        unit: Of both.
        predicted: By the plan.
        measured: Afterwards.
        allowed: Factor by which they may differ.
    """

    unit: str
    predicted: float
    measured: float
    allowed: float

    @property
    def ratio(self) -> float:
        """Predicted over measured."""
        return self.predicted / max(self.measured, 1e-9)

    @property
    def holds(self) -> bool:
        """Whether the prediction is right within the allowed factor."""
        return 1 / self.allowed <= self.ratio <= self.allowed

    def words(self) -> str:
        """Return both with their ratio."""
        missed = "" if self.holds else " MISSED"
        return f"{self.predicted:7.2f} of {self.measured:7.2f} {self.unit} (×{self.ratio:4.2f}){missed:7s}"


class Measuring(LocalBackend):
    """Computes steps in this process, and notes what each takes.

    Attributes:
        seconds: Label of a step → seconds.
        grown: Label of a step → by how much this process grew meanwhile at most, in GiB.
        peak: Most memory of this process, in GiB.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[str, float] = {}
        self.grown: dict[str, float] = {}
        self.peak = 0.0

    def wait(self) -> Sequence[Ended]:
        """Compute a step."""
        step = self._steps[-1]
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before, begun = peak_mib() - self._held_mib(), time.process_time()
        (ended,) = super().wait()
        in_processes = step.cost.models > 1
        self.seconds[step.label] = ended.seconds if in_processes else time.process_time() - begun
        self.grown[step.label], self.peak = (peak_mib() - before) / 1024, max(self.peak, peak_mib() / 1024)
        return [ended]

    def _held_mib(self) -> float:
        """Return what earlier steps hold for later ones."""
        memo = None if self._context is None else self._context.memo
        found = [] if memo is None else [memo.gram, *memo.projected.values()]
        return sum(each.nbytes for each in found if each is not None) / 2**20


def work(folder: Path) -> dict[str, Any]:
    """Compute the study in a folder; return for each step, and for the whole, what was predicted and what it took."""
    plan, backend = planned(folder / "scale.toml"), Measuring()
    execute(plan, Workspace.at(folder / "w" / "c.duckdb"), Quiet(), KINDS, backend, memory=1e6)
    base, store = plan.base_gib, ArtifactStore(Workspace.at(folder / "w" / "c.duckdb").artifacts)
    steps = [
        {
            "label": step.label,
            "seconds": (step.cost.seconds, backend.seconds[step.label]),
            "gib": (base + step.cost.memory_gib, base + backend.grown[step.label]),
            "disk": (step.cost.stored_gib * 1024, on_disk(store.path(step.key))),
        }
        for step in plan.steps
    ]
    return {"steps": steps, "gib": (plan.memory_gib(), backend.peak)}


def on_disk(folder: Path) -> float:
    """Return what a folder's files take, in MiB."""
    return sum(file.stat().st_size for file in folder.rglob("*")) / 2**20


def compared(measured: Mapping[str, Any]) -> dict[str, list[Compared]]:
    """Return label → time and memory of each step, short ones in one line, and of the whole."""
    steps: Sequence[Mapping[str, Any]] = measured["steps"]
    found: dict[str, list[Compared]] = {}
    short = [step for step in steps if max(step["seconds"]) < SHORT_SECONDS]
    for step in steps:
        memory = Compared("GiB", *step["gib"], MEMORY_RATIO)
        found[step["label"]] = [memory] if step in short else [Compared("s", *step["seconds"], TIME_RATIO), memory]
    together = [sum(step["seconds"][side] for step in short) for side in (0, 1)]
    if max(together) >= SHORT_SECONDS:
        found["short steps together"] = [Compared("s", *together, TIME_RATIO)]
    whole = [sum(step["seconds"][side] for step in steps) for side in (0, 1)]
    disk = [sum(step["disk"][side] for step in steps) for side in (0, 1)]
    found["in all"] = [
        Compared("s", *whole, TIME_RATIO),
        Compared("GiB", *measured["gib"], MEMORY_RATIO),
        Compared("MiB of disk", *disk, DISK_RATIO),
    ]
    return found


def measure(asked: Asked, quick: bool) -> dict[str, list[Compared]]:
    """Return the comparison of one study, which a new process computes."""
    with tempfile.TemporaryDirectory() as folder:
        write_study(Path(folder), asked.task, asked.num_quick if quick else asked.num_train, **asked.more)
        command = [sys.executable, "-m", "tests.benchmarks.bench_plan", "--work", folder]
        one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # of several, waiting ones count as busy
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=one_thread)
    if done.returncode:
        raise SystemExit(f"{asked.task} failed:\n{done.stderr[-3000:]}")
    return compared(json.loads(done.stdout.splitlines()[-1]))


def main() -> int:
    """Print every comparison; return 1 if one misses what is asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--only", nargs="+", choices=list(STUDIES), help="studies (default: all)")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        print(json.dumps(work(Path(arguments.work))))
        return 0
    met = True
    for name in arguments.only or STUDIES:
        for label, parts in measure(STUDIES[name], arguments.quick).items():
            met &= all(each.holds for each in parts)
            print(f"  {name:11s} {'  '.join(each.words() for each in parts)}  {label}", flush=True)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
