"""What every method costs, ours beside the field's tools in one run.

    python -m tests.benchmarks.bench_methods [--quick] [--peers-python PATH] [--rounds N] [--only PART ...]

4 500 train and 500 query examples of MNIST, a perceptron 784-128-64-10 and its checkpoints, float32, all cores. Each
side runs in a process of its own (seconds exclude start, imports and loading; peak memory is the process's), and the
sides take turns. Peers (kronfluence, dattri) are looked for in this Python; ``--peers-python`` names another one that
has them (``pip install -e '.[peers]'``). Without them only our side is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from tda_backend.models.tasks.registry import load_task
from tda_backend.models.training.fit import train
from tda_backend.models.training.run import TrainingRun
from tda_backend.seeds import hashed_seed
from tests.benchmarks.bench_training import machine_name
from tests.peers.cases import VERSIONS

ROOT = Path(__file__).resolve().parents[2]
FULL = {
    "task": "mnist-mlp",
    "num_train": 4500,
    "num_queries": 500,
    "epochs": [5, 10, 15, 20],
    "dampings": [1e-8, 1e-5, 1e-3, 1e-1, 10.0],
    "dims": [512, 2048, 4096],
    "regularizations": np.geomspace(1e-4, 10, 10).tolist(),
    "batch_size": 500,
    "cg_queries": 50,
    "cg_regularization": 10.0,
    "lissa_depth": 100,
    "arnoldi_steps": 100,
}
QUICK = FULL | {
    "num_train": 200,
    "num_queries": 20,
    "epochs": [1, 2, 3, 4],
    "dims": [32, 64],
    "batch_size": 100,
    "cg_queries": 5,
}
SINGLES = {
    "iffim, unprojected": "ours-iffim",
    "ekfac, one damping": "ours-ekfac-one",
    "kfac, one damping": "ours-kfac",
    "diagonal, one damping": "ours-diagonal",
    "logra, rank 64": "ours-logra",
    "tracin, 4 checkpoints": "ours-tracin",
    "cg run, 10 steps, some queries": "ours-cg",
    "lissa run, depth 100, some queries": "ours-lissa",
    "arnoldi, 100 steps": "ours-arnoldi",
    "source, 2 segments of 2": "ours-source",
    "fast-source, 2 segments": "ours-fast-source",
    "hydra-fast, whole training": "ours-hydra",
    "repsim": "ours-repsim",
}
"""Title → piece of work, single rows of the table; more may be added."""
PARTS = ("ekfac", "trak", "tracin", "iterative", "singles")


class Bench:
    """Runs pieces of work and keeps what they took."""

    def __init__(
        self, folder: Path, peers_python: str | None, rounds: int, settings: dict[str, Any], quick: bool
    ) -> None:
        self.folder, self.peers_python, self.rounds, self.settings = folder, peers_python, rounds, settings
        self.quick = quick
        self.failed: list[str] = []

    def run(self, *names: str) -> list[dict[str, Any] | None]:
        """Run pieces one after the other in a new process; ``None`` for one that fails (the reason is printed)."""
        python = sys.executable if names[0].startswith("ours") else self.peers_python
        assert python is not None
        threads = str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": threads}
        command = [python, "-m", "tests.benchmarks.methods_work", str(self.folder), *names]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        lines = [line for line in done.stdout.splitlines() if line.startswith(("RESULT", "FAILED"))]
        lost = "FAILED" + (done.stderr.strip().splitlines() or ["no output"])[-1]
        results: list[dict[str, Any] | None] = []
        for name, line in zip(names, lines + [lost] * (len(names) - len(lines)), strict=True):
            if line.startswith("FAILED"):
                print(f"  {name} failed: {line.removeprefix('FAILED')}", flush=True)
                self.failed.append(name)
            results.append(None if line.startswith("FAILED") else json.loads(line.removeprefix("RESULT")))
        return results

    def take_turns(self, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Run the pieces in turns, ``rounds`` times; medians of seconds, the largest peak."""
        names = [name for name in names if name.startswith("ours") or self.peers_python]
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        if self.quick:  # starting a process takes longer than the work: one for each side
            sides = [[n for n in names if n.startswith("ours") is ours] for ours in (True, False)]
        else:
            sides = [[name] for name in names]
        for _ in range(self.rounds):
            for side in sides:
                wanted = [name for name in side if name not in self.failed]
                for name, result in zip(wanted, self.run(*wanted) if wanted else (), strict=True):
                    if result is not None:
                        found[name].append(result)
        return {
            name: runs[0]
            | {key: statistics.median(run[key] for run in runs) for key in ("seconds", "cpu")}
            | {"peak": max(run["peak"] for run in runs)}
            for name, runs in found.items()
            if runs
        }

    def pearson(self, ours: str, theirs: str) -> str:
        """Return how the two sides' scores agree: the lowest correlation of a query, for each setting."""
        files = [self.folder / f"{name}.npz" for name in (ours, theirs)]
        if not all(file.is_file() for file in files):
            return ""
        left, right = (dict(np.load(file, allow_pickle=False)) for file in files)
        lowest = {
            key: min(float(np.corrcoef(a, b)[0, 1]) for a, b in zip(left[key], right[key], strict=True)) for key in left
        }
        if len(lowest) == 1:
            return f"; lowest Pearson of a query {next(iter(lowest.values())):.6f}"
        return "; lowest Pearson of a query " + ", ".join(f"{value:.6f} at {key}" for key, value in lowest.items())


def took(result: dict[str, Any]) -> str:
    """Return seconds and memory as text."""
    return f"{result['seconds']:8.2f} s  (CPU {result['cpu']:7.1f} s, peak {result['peak']:5.2f} GiB)"


def ekfac(bench: Bench) -> None:
    """EK-FAC factors and scores at five dampings against kronfluence."""
    count = len(bench.settings["dampings"])
    print(f"EK-FAC: factors and [m, n] scores at {count} dampings")
    found = bench.take_turns(["ours-ekfac", "kronfluence-ekfac"])
    for name, result in found.items():
        print(f"  {name:<22}{took(result)}  {parts(result)}")
    ratio(found, "ours-ekfac", "kronfluence-ekfac", 5, bench.pearson("ours-ekfac", "kronfluence-ekfac"))


def trak(bench: Bench) -> None:
    """TRAK for every k and λ against dattri."""
    dims, count = bench.settings["dims"], len(bench.settings["regularizations"])
    print(f"TRAK: k in {dims} × {count} λ, [m, n] scores at each")
    ours = ["ours-trak-gaussian", "ours-trak-kronecker"] + ["ours-trak-sparse"] * (not bench.quick)
    found = bench.take_turns([*ours, *(f"dattri-trak-{dim}" for dim in dims)])
    for name, result in found.items():
        print(f"  {name:<22}{took(result)}  {parts(result) if name in ours else 'one λ'}")
    peers = [found[f"dattri-trak-{dim}"]["seconds"] for dim in dims if f"dattri-trak-{dim}" in found]
    if len(peers) == len(dims):
        total = count * sum(peers)
        print(f"  dattri, one λ of each k measured, × {count} λ (it starts anew for every λ): {total:.0f} s")
        for name in ours:
            if name in found:
                print(f"  dattri / {name}: {total / found[name]['seconds']:.1f} (target ≥ 50)")


def tracin(bench: Bench) -> None:
    """TracIn with four checkpoints against dattri, which projects to 512 unless its attribute is changed."""
    print("TracIn: four checkpoints, [m, n] scores; dattri projects to 512 by default (and if told None)")
    names = ["ours-tracin", "ours-tracin-512", "dattri-tracin", "dattri-tracin-512"]
    found = bench.take_turns([name for name in names if not (bench.quick and name.endswith("512"))])
    for name, result in found.items():
        print(f"  {name:<22}{took(result)}")
    ratio(found, "ours-tracin", "dattri-tracin-512", 50, "; ours exact, dattri as it comes")
    ratio(found, "ours-tracin", "dattri-tracin", 50, "; both exact" + bench.pearson("ours-tracin", "dattri-tracin"))
    ratio(found, "ours-tracin-512", "dattri-tracin-512", None, "; both projected to 512")


def iterative(bench: Bench) -> None:
    """Conjugate gradients and LoGra against dattri."""
    queries, value = bench.settings["cg_queries"], bench.settings["cg_regularization"]
    print(f"CG: 10 steps on the Hessian, {queries} queries, λ = {value:g}; LoGra: rank 64, all queries")
    names = ["ours-cg", "dattri-cg", "ours-logra", "dattri-logra"]
    found = bench.take_turns([name for name in names if not (bench.quick and name.endswith("logra"))])
    for name, result in found.items():
        print(f"  {name:<22}{took(result)}")
    ratio(found, "ours-cg", "dattri-cg", None, bench.pearson("ours-cg", "dattri-cg"))
    ratio(found, "ours-logra", "dattri-logra", None, "")


def singles(bench: Bench) -> None:
    """One row per method of ours."""
    alone = "together in one process: memory so far" if bench.quick else "each alone in a process"
    print(f"Our methods, [m, n] scores at one setting, {alone}")
    results = bench.run(*SINGLES.values()) if bench.quick else (bench.run(name)[0] for name in SINGLES.values())
    for title, result in zip(SINGLES, results, strict=True):
        if result is not None:
            print(f"  {title:<34}{took(result)}", flush=True)


def parts(result: dict[str, Any]) -> str:
    """Return what the pieces of a piece took."""
    return "" if len(result["parts"]) < 2 else ", ".join(f"{key} {value:.2f}" for key, value in result["parts"].items())


def ratio(found: dict[str, Any], ours: str, theirs: str, target: float | None, more: str) -> None:
    """Print how many times as long the peer took."""
    if ours in found and theirs in found:
        goal = "" if target is None else f" (target ≥ {target:g})"
        print(f"  {theirs} / {ours}: {found[theirs]['seconds'] / found[ours]['seconds']:.1f}{goal}{more}", flush=True)


def prepare(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Train the checkpoints and write them with the settings; return the settings."""
    task = load_task(settings["task"])
    seed = hashed_seed("benchmark", "methods")
    checkpoints = train(TrainingRun(task, task.datasets(), range(settings["num_train"]), seed), settings["epochs"])
    for checkpoint in checkpoints:
        safetensors.torch.save_file(dict(checkpoint.state), folder / f"epoch-{checkpoint.epoch}.safetensors")
    settings = settings | {"seed": seed, "learning_rates": [c.learning_rate for c in checkpoints]}
    (folder / "settings.json").write_text(json.dumps(settings))
    return settings


def find_peers(python: str) -> tuple[str | None, str]:
    """Return the Python that has the peers and what it has, or ``None`` and what is missing."""
    # No torch for this: it is a question of versions.
    lines = "import importlib.metadata as m\nfor d in m.distributions(): print(d.name, d.version)"
    try:
        done = subprocess.run([python, "-c", lines], capture_output=True, text=True, check=False)
    except OSError as error:
        return None, f"{python} does not run ({error.strerror})"
    if done.returncode:
        return None, (done.stderr.strip().splitlines() or [f"{python} does not run"])[-1]
    present = dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)
    missing = "; ".join(
        f"{name} {version} is not installed" if name not in present else f"{name} is {present[name]}, not {version}"
        for name, version in VERSIONS.items()
        if present.get(name) != version
    )
    return (None, missing) if missing else (python, "")


def main() -> int:
    """Print every ratio and row; return 1 if a piece of ours failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="200 train, 20 queries, small k; the ratios say little")
    parser.add_argument("--peers-python", default=sys.executable, metavar="PATH", help="a Python that has the peers")
    parser.add_argument("--rounds", type=int, default=1, metavar="N", help="turns of each side; medians are printed")
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=f"of {', '.join(PARTS)}"
    )
    arguments = parser.parse_args()
    python, missing = find_peers(arguments.peers_python)
    settings = QUICK if arguments.quick else FULL
    print(f"{settings['num_train']} train, {settings['num_queries']} queries, mnist-mlp · {machine_name()}")
    if torch.cuda.is_available():
        print(f"GPU present: {torch.cuda.get_device_name()} (not used: all rows are CPU)")
    if python is None:
        print(f"Peers' side skipped: {missing}. Install with pip install -e '.[peers]' or give --peers-python.")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), python, arguments.rounds, prepare(Path(folder), dict(settings)), arguments.quick)
        for part in arguments.only:
            globals()[part](bench)
    return 1 if any(name.startswith("ours") for name in bench.failed) else 0


if __name__ == "__main__":
    sys.exit(main())
