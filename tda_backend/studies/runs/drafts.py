"""Drafts of studies: what running a study file would do, and what it would cost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tda_backend.errors import StudyError, TaskError
from tda_backend.models.tasks.patience import task_seconds
from tda_backend.models.tasks.registry import BUILT_IN, load_task
from tda_backend.studies.pipeline.facts import task_facts
from tda_backend.studies.runs.planning import build_plan, configurations
from tda_backend.studies.study.file import resolve
from tda_backend.studies.study.quick import quick
from tda_backend.studies.study.toml_text import parse

START_SECONDS = 120.0
"""What a process needs on a busy machine before it comes to the task."""


@dataclass(frozen=True)
class Draft:
    """A study that could be run.

    Attributes:
        name: Of the study.
        num_configurations: How many there are.
        num_steps: How many steps compute them.
        seconds: Rough estimate of the time on this machine, nothing cached.
        slowest: The steps' names with their share of the seconds, largest first.
        may_stop: Whether retraining may stop before that, when the LDS is known.
    """

    name: str
    num_configurations: int
    num_steps: int
    seconds: float
    slowest: tuple[tuple[str, float], ...]
    may_stop: bool = False


def built_in_tasks() -> list[str]:
    """Return the names of the tasks that come with the program."""
    return list(BUILT_IN)


def draft(toml: str, small: bool = False) -> Draft:
    """Return what running a study file would do, with its estimated cost.

    Args:
        toml: Text of a study file.
        small: Whether its quick version is meant.

    Raises:
        TDAError: The study cannot be run; the same error that ``tda run`` would give.
    """
    content = parse(toml)
    spec = str(content.get("task", ""))
    facts = task_facts(load_task(spec), spec)
    study = resolve(quick(content, facts.num_parameters) if small else content)
    plan = build_plan(study, facts)
    by_name: dict[str, float] = {}
    for step in plan.steps:
        by_name[step.NAME] = by_name.get(step.NAME, 0.0) + step.cost.seconds
    return Draft(
        study.name,
        len(configurations(study)),
        len(plan.steps),
        sum(by_name.values()),
        tuple(sorted(by_name.items(), key=lambda item: -item[1])),
        study.ground_truth.until is not None,
    )


@dataclass(frozen=True)
class Named:
    """What a study file calls itself and its task, unchecked.

    Attributes:
        name: Of the study.
        task: How its task is loaded.
    """

    name: str
    task: str


def named(toml: str) -> Named:
    """Return the name and the task that a study file gives.

    Raises:
        StudyError: It is no TOML.
    """
    content = parse(toml)
    return Named(str(content.get("name", "")), str(content.get("task", "")))


def count_configurations(toml: str) -> int:
    """Return how many configurations a study file asks for, as far as the file alone says; its task is not loaded.

    Raises:
        StudyError: A value is not allowed, whatever the task.
    """
    return len(configurations(resolve(parse(toml))))


def draft_apart(toml: str, small: bool = False, folder: str | Path | None = None) -> Draft:
    """Return :func:`draft`'s answer from a process of its own, whatever the task's code does to it.

    Args:
        toml: Text of a study file.
        small: Whether its quick version is meant.
        folder: Where the process works; modules of a task are looked up there.

    Raises:
        TDAError: As :func:`draft`.
        TaskError: The task's code ended the process, or did not come back in time.
    """
    root = str(Path(__file__).resolve().parents[3])
    paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    seconds = task_seconds() + START_SECONDS
    with tempfile.TemporaryDirectory() as place:
        answer = Path(place) / "answer.json"
        asked = json.dumps({"toml": toml, "small": small, "answer": str(answer)})
        command = [sys.executable, "-m", "tda_backend.studies.runs.draft_process"]
        try:
            done = subprocess.run(
                command,
                input=asked,
                text=True,
                capture_output=True,
                errors="replace",
                check=False,
                cwd=folder,
                timeout=seconds,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            )
        except subprocess.TimeoutExpired as error:
            raise TaskError(
                f"The task's code has not come back within {seconds:g} s.",
                "Look where it waits; $TDA_TASK_SECONDS gives it longer.",
            ) from error
        if not answer.is_file():
            words = [line for line in done.stderr.splitlines() if line.strip()]
            last = f": {words[-1].strip()[:200]}" if words else ""
            raise TaskError(
                f"The task's code ended its process with status {done.returncode}{last}.", "Run `tda check`."
            )
        return _read(json.loads(answer.read_text(encoding="utf-8")))


def _read(content: dict[str, Any]) -> Draft:
    if "error" in content:
        raise StudyError(content["error"], content["hint"])
    return Draft(**{**content, "slowest": tuple((name, seconds) for name, seconds in content["slowest"])})
