"""What ``tda verify`` does and prints."""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict

from rich.console import Console

from tda_backend.errors import UsageError
from tda_backend.interfaces.cli.printing import duration, print_json, print_line
from tda_backend.interfaces.reading.study import open_study
from tda_backend.models.tasks.registry import load_task
from tda_backend.studies.config.study import Study
from tda_backend.studies.pipeline.facts import task_facts
from tda_backend.studies.runs.planning import build_plan
from tda_backend.studies.runs.recompute import TOLERANCE, Recomputed, recompute, sampled_steps
from tda_backend.studies.runs.rounds import last_round
from tda_backend.studies.store.artifacts import ArtifactStore

MAX_STEPS = 10_000


def verify_study(arguments: argparse.Namespace, console: Console) -> int:
    """Compute a sample of a study's steps again, print how each compares, and return the exit code."""
    if not 1 <= arguments.steps <= MAX_STEPS:
        raise UsageError(f"--steps {arguments.steps} is not allowed.", f"Give 1 to {MAX_STEPS}.")
    opened = open_study(arguments.study, arguments.db)
    study: Study = opened.resolved
    store = ArtifactStore(opened.workspace.artifacts)
    plan = build_plan(study, task_facts(load_task(study.task), study.task), str(opened.info["device"]))
    plan = last_round(plan, store) or plan
    steps = sampled_steps(plan, store, arguments.steps, arguments.seed)
    found: list[Recomputed] = []
    for row in recompute(plan, store, steps):
        found.append(row)
        if not arguments.json:
            print_line(console, _sentence(row))
    wrong = [row for row in found if not row.agrees]
    if arguments.json:
        rows = [{**asdict(row), "agrees": row.agrees, "tolerance": TOLERANCE} for row in found]
        print_json(rows)
    else:
        print_line(
            console,
            f"{len(found) - len(wrong)} of {len(found)} steps agree within {TOLERANCE:g} (of {len(plan.steps)} steps; "
            f"sample of seed {arguments.seed}).",
        )
    return 1 if wrong else 0


def _sentence(row: Recomputed) -> str:
    by = "equal" if row.deviation == 0 else f"largest difference {row.deviation:.1e} ({row.where})"
    by = f"{row.where} cannot be compared" if math.isinf(row.deviation) else by
    return f"{'ok  ' if row.agrees else 'FAIL'} {row.label}: {by}, {duration(row.seconds)}"
