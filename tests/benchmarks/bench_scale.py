"""Time and peak memory of whole studies over n, beside what their plans say.

    python -m tests.benchmarks.bench_scale [--quick] [--only PART ...]

``memory``: every step of a study in a process of its own, whose peak the system tells, beside the step's estimate.
``growth``: a study of a perceptron (k = 512, 200 queries, IFFIM and TRAK at 20 λ, no retraining) for n from 1 000 to
50 000, with the exponent of its time over n. ``top``: the 100 most helpful and most harmful of 100 000 examples for
each of 1 000 queries at another λ, k = 2 048. ``large``: growth of the same study of a CNN of 1.7 million parameters, n
to 10 000. ``leading``: the perceptron's without a projection, the 512 largest eigenvalues beside all of them at n =
4 000, and growth to 10 000. ``limit``: a study within less memory than its blocks would like.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tda_backend.errors import TDAError
from tda_backend.models.tasks.registry import load_task
from tda_backend.numerics.spectral.coordinates import Spectrum
from tda_backend.studies.pipeline.backend import Ended, LocalBackend
from tda_backend.studies.pipeline.compute import compute
from tda_backend.studies.pipeline.context import RunContext, no_progress
from tda_backend.studies.pipeline.executor import execute
from tda_backend.studies.pipeline.facts import task_facts
from tda_backend.studies.pipeline.plan import Plan
from tda_backend.studies.pipeline.step import Step
from tda_backend.studies.runs.planning import build_plan
from tda_backend.studies.steps.evaluate import top_examples
from tda_backend.studies.steps.table import KINDS
from tda_backend.studies.store.artifacts import ArtifactStore
from tda_backend.studies.store.workspace import Workspace
from tda_backend.studies.study.file import read_study_file, resolve
from tests.benchmarks.scale_tasks import write_study

MIB = 1024.0**2
MEMORY: tuple[tuple[str, int, dict[str, Any]], ...] = (
    ("perceptron", 2000, {}),
    ("perceptron", 20_000, {}),
    ("perceptron", 50_000, {}),
    ("cnn", 2000, {}),
    ("cnn", 10_000, {}),
    ("large_cnn", 1000, {}),
    ("perceptron", 4000, {"dim": "none"}),
    ("cnn", 4000, {"dim": "none"}),
    ("perceptron", 4000, {"kind": "gaussian"}),
    ("perceptron", 10_000, {"dim": "none", "kept": 256}),
)
"""Task, n, and what else of :func:`write_study`."""
GROWTH = (1000, 3000, 10_000, 30_000, 50_000)
LARGE = (1000, 3000, 10_000)
LEADING = (4000, 10_000)
KEPT = 512
PARTS = ("memory", "growth", "large", "leading", "top", "limit")
ASKED_RATIO = 1.3
"""By how much an estimate of memory may be off, either way."""


class Quiet:
    """A listener that notes how long steps took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def planned(self, plan: Plan) -> None: ...

    def looked_at(self, done: int, total: int) -> None: ...

    def begin(self, plan: Plan, cached: Mapping[str, bool]) -> None: ...

    def step_started(self, step: Step) -> None: ...

    def step_progress(self, step: Step, done: int, total: int) -> None: ...

    def step_remarked(self, step: Step, remark: str) -> None: ...

    def step_failed(self, step: Step, error: TDAError) -> None: ...

    def step_finished(self, step: Step, seconds: float, cached: bool) -> None:
        self.seconds[step.label] = seconds


class OneProcessEach(LocalBackend):
    """Computes every step in a process of its own, whose peak is that of the step beside program and data.

    Attributes:
        folder: Where the study lies.
        peaks: Label of a step → peak of its process, in GiB.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder, self.peaks = folder, {}

    def wait(self) -> Sequence[Ended]:
        """Compute a step in a new process."""
        step = self._steps.pop()
        found = in_process("step", str(self.folder), step.key)
        self.peaks[step.label] = found["peak_gib"]
        return [Ended(step.key, found["seconds"])]


def peak_mib() -> float:
    """Return the most memory that this process has held, as the system says, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) / 1024 for line in status.read_text().splitlines() if "VmHWM" in line)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MIB


def planned(file: Path) -> Plan:
    """Return the plan of a study file."""
    study = resolve(read_study_file(file))
    return build_plan(study, task_facts(load_task(study.task), study.task))


def work_on_step(folder: Path, key: str) -> dict[str, Any]:
    """Compute one step of a study, and return its seconds and the peak of this process."""
    plan, store = planned(folder / "scale.toml"), ArtifactStore(Workspace.at(folder / "apart" / "c.duckdb").artifacts)
    number = next(number for number, step in enumerate(plan.steps) if step.key == key)
    context = RunContext.begin(plan.study, plan.facts, plan.device, store)
    context.later = plan.steps[number + 1 :]
    return {"seconds": compute(context, plan.steps[number], no_progress), "peak_gib": peak_mib() / 1024}


def work_on_study(folder: Path, memory: float | None) -> dict[str, Any]:
    """Compute a study as ``tda run`` does; return seconds by step, peak and estimate."""
    begun = time.perf_counter()
    plan, notes = planned(folder / "scale.toml"), Quiet()
    execute(plan, Workspace.at(folder / "w" / "c.duckdb"), notes, KINDS, memory=memory)
    return {
        "seconds": time.perf_counter() - begun,
        "steps": notes.seconds,
        "peak_gib": peak_mib() / 1024,
        "plan_gib": plan.memory_gib(),
    }


def work_on_top(num_train: int, dim: int, num_queries: int) -> dict[str, Any]:
    """Find the top 100 of every query at two λ; return seconds and peak."""
    generator = torch.Generator().manual_seed(0)
    sigma = torch.logspace(1, -8, dim, dtype=torch.float64)
    train, query = (
        torch.randn(rows, dim, generator=generator).mul_(sigma.sqrt().float()) for rows in (num_train, num_queries)
    )
    source, seconds = [Spectrum(sigma, train, query, query[:1], None, 0)], []
    for value in (1e-3, 2e-3):
        begun = time.perf_counter()
        top_examples(source, value, 100)
        seconds.append(time.perf_counter() - begun)
    return {"seconds": seconds, "peak_gib": peak_mib() / 1024}


def in_process(*words: str) -> dict[str, Any]:
    """Return what a worker of this module answers."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_scale", "--work", *words]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def measure_memory(asked: Sequence[tuple[str, int, Mapping[str, Any]]]) -> bool:
    """Print every step's peak beside its estimate; return whether all large ones are within the asked ratio."""
    met = True
    for task, num_train, more in asked:
        words = " ".join([task, *map(str, more.values())])
        with tempfile.TemporaryDirectory() as folder:
            plan = planned(write_study(Path(folder), task, num_train, **more))
            backend = OneProcessEach(Path(folder))
            execute(plan, Workspace.at(Path(folder) / "apart" / "c.duckdb"), Quiet(), KINDS, backend, memory=1e6)
        for step in plan.steps:
            name, label, expected, peak = (
                step.NAME,
                step.label,
                plan.base_gib + step.cost.memory_gib,
                backend.peaks[step.label],
            )
            ratio = expected / peak
            within = 1 / ASKED_RATIO <= ratio <= ASKED_RATIO
            met &= within
            print(
                f"  {words} n = {num_train:6d}  {name:10s} peak {peak:6.2f} GiB  estimate {expected:6.2f}  "
                f"ratio {ratio:4.2f}{'' if within else '  MISSED'}  {label}",
                flush=True,
            )
    return met


def measure_growth(task: str, sizes: Sequence[int], **more: Any) -> None:
    """Print time and peak of whole studies over n, and the exponent of the time of what grows with n."""
    times = []
    for num_train in sizes:
        with tempfile.TemporaryDirectory() as folder:
            write_study(Path(folder), task, num_train, **more)
            found = in_process("study", folder)
        own = {"examples": 0.0, "train": 0.0}
        rest = sum(seconds for label, seconds in found["steps"].items() if label.split()[0] not in own)
        times.append(rest)
        print(
            f"  {task} n = {num_train:6d}: {found['seconds']:6.1f} s ({rest:6.1f} s after training), "
            f"peak {found['peak_gib']:.2f} GiB, planned {found['plan_gib']:.2f} GiB",
            flush=True,
        )
    if len(sizes) < 2:
        return
    slope = np.polyfit(np.log(sizes), np.log(times), 1)[0]
    last = np.log(times[-1] / times[-2]) / np.log(sizes[-1] / sizes[-2])
    print(f"  time of gradients, spectra and evaluation ~ n^{slope:.2f} (between the last two: n^{last:.2f})")


def measure_top(num_train: int, dim: int, num_queries: int) -> None:
    """Print how long all top 100 take at a λ that nobody has asked for before."""
    found = in_process("top", str(num_train), str(dim), str(num_queries))
    first, second = found["seconds"]
    print(
        f"  n = {num_train}, k = {dim}, m = {num_queries}: a new λ with all top 100 in {second:.1f} s (the first "
        f"{first:.1f} s), peak {found['peak_gib']:.2f} GiB; asked 10 s within 6 GiB"
    )


def measure_limit(num_train: int, memory: float) -> None:
    """Print the peak of a CNN's study within a limit, beside that without."""
    for limit in (None, memory):
        with tempfile.TemporaryDirectory() as folder:
            write_study(Path(folder), "cnn", num_train)
            found = in_process("study", folder, *([] if limit is None else [str(limit)]))
        words = "no limit" if limit is None else f"--memory {limit:g}"
        print(f"  cnn n = {num_train}, {words}: peak {found['peak_gib']:.2f} GiB, {found['seconds']:.1f} s", flush=True)


def work(words: Sequence[str]) -> dict[str, Any]:
    """Return what a worker measures."""
    kind, *rest = words
    if kind == "step":
        return work_on_step(Path(rest[0]), rest[1])
    if kind == "study":
        return work_on_study(Path(rest[0]), float(rest[1]) if len(rest) > 1 else 1e6)
    return work_on_top(*map(int, rest))


def main() -> int:
    """Print what was asked; return 1 if an estimate is off by more than asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="parts (default: all)")
    parser.add_argument("--work", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        print(json.dumps(work(arguments.work)))
        return 0
    parts, small, met = arguments.only or PARTS, arguments.quick, True
    if "memory" in parts:
        met = measure_memory([each for each in MEMORY if not small or each[1] <= 2000])
    if "growth" in parts:
        measure_growth("perceptron", GROWTH[:3] if small else GROWTH)
    if "large" in parts:
        measure_growth("large_cnn", LARGE[:2] if small else LARGE)
    if "leading" in parts:
        measure_growth("perceptron", LEADING[:1], dim="none")
        measure_growth("perceptron", LEADING[:1] if small else LEADING, dim="none", kept=KEPT)
    if "top" in parts:
        measure_top(*((10_000, 512, 100) if small else (100_000, 2048, 1000)))
    if "limit" in parts:
        measure_limit(5000, 0.8)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
