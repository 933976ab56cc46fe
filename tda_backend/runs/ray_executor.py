"""Run a plan on a Ray cluster: the same steps and keys as on one machine, with artifacts on a shared path.

Ray is the optional extra ``ray``. Steps that share a checkpoint's Gram matrix and draw go to one worker together;
everything else is independent. The driver alone hands results to the catalogue.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Mapping
from typing import Any

from tda_backend.errors import MachineError, TDAError
from tda_backend.runs.context import RunContext
from tda_backend.runs.executor import Courier, Listener, Outcome, check_memory, compute, peak_memory_mib, write_study
from tda_backend.runs.facts import task_facts
from tda_backend.runs.plan import Plan, Step, build_plan
from tda_backend.store.artifacts import ArtifactStore
from tda_backend.store.workspace import Workspace
from tda_backend.training.registry import load_task

Unit = tuple[Step, ...]


def import_ray() -> Any:
    """Return the module ``ray``.

    Raises:
        MachineError: It is not installed.
    """
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise MachineError(
            "The Ray executor needs the optional extra 'ray', which is not installed.",
            "pip install 'tda-dashboard[ray]', or use --executor local.",
        ) from error


class _Silent:
    """A listener for workers: only the driver reports."""

    def begin(self, plan: Plan, cached: Mapping[str, bool]) -> None:
        pass

    def step_started(self, step: Step) -> None:
        pass

    def step_progress(self, step: Step, done: int, total: int) -> None:
        pass

    def step_finished(self, step: Step, seconds: float, cached: bool) -> None:
        pass

    def step_failed(self, step: Step, error: TDAError) -> None:
        pass


def units_of(steps: list[Step]) -> list[Unit]:
    """Return the steps in groups that belong on one worker: spectra of one checkpoint together, others alone."""
    groups: dict[Any, list[Step]] = {}
    for step in steps:
        shared = step.inputs["features"] if step.name == "spectrum" else step.key
        groups.setdefault(shared, []).append(step)
    return [tuple(group) for group in groups.values()]


def compute_unit(
    config: Mapping[str, Any], spec: str, fingerprint: str, device: str, catalogue: str, keys: list[str]
) -> dict[str, float]:
    """Compute some steps of a study on a worker; returns seconds by key.

    Raises:
        MachineError: The worker sees another task than the driver does.
    """
    facts = task_facts(load_task(spec), spec)
    if facts.fingerprint != fingerprint:
        raise MachineError(
            f"A Ray worker sees other code or data of task {facts.task.name!r} than the driver.",
            "Put the same files on every machine.",
        )
    plan = build_plan(config, facts, device)
    steps = [step for step in plan.steps if step.key in keys]
    if len(steps) != len(keys):
        raise MachineError("A Ray worker has another torch than the driver.", "Install the same versions everywhere.")
    store = ArtifactStore(Workspace.at(catalogue).artifacts)
    context = RunContext.begin(plan, store)
    seconds = {}
    for number, step in enumerate(steps):
        context.needed_later = frozenset(later.key for later in steps[number + 1 :])
        seconds[step.key] = 0.0 if store.usable(step.key) else compute(context, step, _Silent())
    return seconds


def execute_on_ray(plan: Plan, workspace: Workspace, listener: Listener, memory: float | None = None) -> Outcome:
    """Compute what is missing of a plan on Ray; the workspace must be a path that every machine sees.

    Raises:
        MachineError: Ray is not installed, or the workers differ from the driver.
        TDAError: A step cannot be computed; what was finished before is kept.
    """
    ray = import_ray()
    started = time.perf_counter()
    check_memory(plan, memory)
    store = ArtifactStore(workspace.create().artifacts)
    courier = Courier(workspace, plan)
    cached = {step.key: store.usable(step.key) for step in plan.steps}
    write_study(plan, store)
    courier.deliver(plan.key, "study", "study", {})
    listener.begin(plan, cached)
    ready = {key for key, done in cached.items() if done}
    for step in plan.steps:
        if cached[step.key]:
            courier.deliver(step.key, step.name, step.label, step.context, ingest=False)
            listener.step_finished(step, 0.0, True)
    waiting = units_of([step for step in plan.steps if not cached[step.key]])
    computed: list[str] = []
    if waiting and not ray.is_initialized():
        ray.init(ignore_reinit_error=True, log_to_driver=False)
    remote = ray.remote(compute_unit)
    running: dict[Any, Unit] = {}
    facts = plan.facts
    try:
        while waiting or running:
            for unit in [unit for unit in waiting if _inputs(unit) <= ready]:
                keys = [step.key for step in unit]
                task = remote.remote(
                    plan.config, facts.spec, facts.fingerprint, plan.device, str(workspace.catalogue), keys
                )
                running[task] = unit
                waiting.remove(unit)
                listener.step_started(unit[0])
            (finished,), _ = ray.wait(list(running), num_returns=1)
            unit = running.pop(finished)
            seconds = ray.get(finished)
            for step in unit:
                ready.add(step.key)
                courier.deliver(step.key, step.name, step.label, step.context)
                listener.step_finished(step, seconds[step.key], False)
                computed.append(step.label)
    finally:
        for task in running:
            ray.cancel(task, force=True)
    skipped = [step.label for step in plan.steps if cached[step.key]]
    return Outcome(computed, skipped, time.perf_counter() - started, courier.finish(), peak_memory_mib())


def _inputs(unit: Unit) -> set[str]:
    inside = {step.key for step in unit}
    return {key for step in unit for keys in step.inputs.values() for key in keys} - inside
