"""Run a plan on this machine: skip what is finished, compute the rest in order, hand every result to the catalogue."""

from __future__ import annotations

import dataclasses
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch

from tda_backend.errors import (
    CatalogueError,
    DataError,
    IncompleteError,
    MachineError,
    NumericalError,
    TaskError,
    TDAError,
    UsageError,
)
from tda_backend.runs.context import RunContext
from tda_backend.runs.counterfactual_plan import RETRAINING_STEPS
from tda_backend.runs.plan import VERSIONS, Plan, Step
from tda_backend.runs.steps import STEPS
from tda_backend.store import catalogue, faults, repository
from tda_backend.store.artifacts import ArtifactStore, provisional_key
from tda_backend.store.ingest import check_writable, ingest_inbox, pending_drops, write_drop
from tda_backend.store.workspace import Workspace
from tda_backend.training.processes import close_pool

GIB = 1024.0**3
FINAL_PATIENCE_SECONDS = 10.0
FOUNDATIONS = ("examples", "train", "retrain")
"""Steps without which nothing else has a meaning: their failure ends a run."""
FAILURES = (NumericalError, TaskError, DataError, UsageError)
"""What is wrong with one configuration alone; a full disk or a lost catalogue ends a run."""


class Listener(Protocol):
    """What is told about a run's progress."""

    def begin(self, plan: Plan, cached: Mapping[str, bool]) -> None: ...

    def step_started(self, step: Step) -> None: ...

    def step_progress(self, step: Step, done: int, total: int) -> None: ...

    def step_finished(self, step: Step, seconds: float, cached: bool) -> None: ...

    def step_failed(self, step: Step, error: TDAError) -> None: ...


@dataclasses.dataclass
class Outcome:
    """What a run did.

    Attributes:
        computed: Labels of the steps that were computed.
        cached: Labels of the steps that were finished before.
        seconds: Wall time.
        num_waiting: Drops that no process has taken into the catalogue yet.
        peak_memory_mib: Peak of this process.
    """

    computed: list[str]
    cached: list[str]
    seconds: float
    num_waiting: int
    peak_memory_mib: float


def estimated_memory(plan: Plan) -> float:
    """Return the estimated peak of a run in GiB: Gram, its factor and an eigendecomposition beside the program."""
    counts = plan.config["data"]
    num = counts["train"] + counts["validation"] + counts["queries"]
    spectral = any(step.name == "spectrum" for step in plan.steps)
    return 0.7 + (3.0 * num**2 * 8 / GIB if spectral else 0.0) + num * plan.config["projection"]["max_dim"] * 16 / GIB


def execute(plan: Plan, workspace: Workspace, listener: Listener, memory: float | None = None) -> Outcome:
    """Compute what is missing of a plan.

    Args:
        plan: What to compute.
        workspace: Where artifacts and catalogue lie.
        listener: Told about progress.
        memory: GiB this run may use; ``None``: what the machine has.

    Raises:
        MachineError: Not enough memory, or no space on the disk.
        CatalogueError: The catalogue cannot be used.
        TDAError: A step cannot be computed; what was finished before is kept.
    """
    started = time.perf_counter()
    check_memory(plan, memory)
    workspace.create()
    store = ArtifactStore(workspace.artifacts)
    store.clear_leftovers()
    courier = Courier(workspace, plan)
    cached = {step.key: store.usable(step.key) for step in plan.steps}
    write_study(plan, store)
    courier.deliver(plan.key, "study", "study", {})
    listener.begin(plan, cached)
    context = RunContext.begin(plan, store)
    computed, skipped = [], []
    failed: dict[str, TDAError] = {}
    try:
        for number, step in enumerate(plan.steps):
            planned = step
            if cached[step.key]:
                courier.deliver(step.key, step.name, step.label, step.context, ingest=False)
                listener.step_finished(step, 0.0, True)
                skipped.append(step.label)
                continue
            context.needed_later = frozenset(s.key for s in plan.steps[number + 1 :] if not cached[s.key])
            missing = {role: key for role, keys in step.inputs.items() for key in keys if key in failed}
            if missing:
                failed[step.key] = failed[next(iter(missing.values()))]
                if not step.can_do_without(missing):
                    continue
                store.remove(provisional_key(step.key))  # of a run in which something else may have failed
                step = step.without({role: _reason(plan, key, failed[key]) for role, key in missing.items()})
            try:
                seconds = compute(context, step, listener)
            except FAILURES as error:
                if step.name in FOUNDATIONS:
                    raise
                failed[planned.key] = error
                listener.step_failed(planned, error)
                continue
            if step.optional and not missing:
                store.remove(provisional_key(step.key))
            courier.deliver(step.key, step.name, step.label, step.context)
            listener.step_finished(planned, seconds, False)
            computed.append(step.label)
            if not _pool_is_wanted([later for later in plan.steps[number + 1 :] if not cached[later.key]]):
                close_pool()  # their memory is wanted for the spectra
    finally:
        close_pool()
        context.memo.clear()
    num_waiting = courier.finish()
    outcome = Outcome(computed, skipped, time.perf_counter() - started, num_waiting, peak_memory_mib())
    if failed:
        raise _failures(plan, failed, outcome)
    return outcome


def _reason(plan: Plan, key: str, error: TDAError) -> str:
    label = next(step.label for step in plan.steps if step.key == key)
    return f"{label} could not be computed: {error.message}"


def _pool_is_wanted(waiting: Sequence[Step]) -> bool:
    """Return whether retraining goes on soon: of subsets anywhere later, or counterfactually in the next steps."""
    subsets = any(step.name in ("retrain", "downsample") for step in waiting)
    return subsets or any(step.name in RETRAINING_STEPS for step in waiting[:2])


def _failures(plan: Plan, failed: Mapping[str, TDAError], outcome: Outcome) -> IncompleteError:
    """Return an error that says what went wrong: which step, how many others, and the first cause."""
    causes = list(dict.fromkeys(failed.values()))
    label = next(step.label for step in plan.steps if step.key in failed)
    more = f" and {len(causes) - 1} other steps" if len(causes) > 1 else ""
    error = IncompleteError(
        f"{label}{more} could not be computed; all else is kept. {causes[0].message}", causes[0].hint
    )
    error.num_computed, error.num_cached = len(outcome.computed), len(outcome.cached)
    error.seconds = outcome.seconds
    error.__cause__ = causes[0]
    return error


def compute(context: RunContext, step: Step, listener: Listener) -> float:
    """Compute one step into its artifact and return how many seconds that took."""
    listener.step_started(step)

    def on_progress(done: int, total: int) -> None:
        listener.step_progress(step, done, total)
        faults.reach(step.name, "progress")

    context.on_progress = on_progress
    started = time.perf_counter()
    inputs = [key for keys in step.inputs.values() for key in keys]
    facts = {"version": VERSIONS[step.name], "label": step.label, "device": context.device}
    facts |= {"missing": step.context["missing"]} if "missing" in step.context else {}
    with context.store.writing(step.key, step.name, dict(step.settings), inputs, facts) as writer:
        try:
            STEPS[step.name](context, step, writer)
        except torch.linalg.LinAlgError as error:  # pyright: ignore[reportPrivateImportUsage]
            reason = str(error).strip().splitlines()[0]
            raise NumericalError(
                f"A decomposition of {step.label} did not converge: {reason}",
                "Look for extreme values in the gradients of this checkpoint; use another epoch, or a projection.",
            ) from error
        writer.facts["peak_memory_mib"] = peak_memory_mib()
        faults.reach(step.name, "computed")
    return time.perf_counter() - started


def write_study(plan: Plan, store: ArtifactStore) -> None:
    """Write the study's own artifact: what the catalogue needs to know, and what `tda rebuild` starts from."""
    if not store.usable(plan.key):
        with store.writing(plan.key, "study", {"study_id": plan.study_id}, []) as writer:
            writer.json("study", plan.record)


def check_memory(plan: Plan, memory: float | None) -> None:
    """Raise a MachineError if the plan needs more memory than may be used."""
    import psutil

    needed = estimated_memory(plan)
    available = memory if memory is not None else psutil.virtual_memory().available / GIB
    if needed > available:
        given = (
            f"--memory {memory:g} allows {memory:g}" if memory is not None else f"this machine has {available:.1f} free"
        )
        raise MachineError(
            f"The study needs about {needed:.1f} GiB of memory; {given}.",
            "Take fewer training examples (--set data.train=2000), or raise --memory.",
        )


def peak_memory_mib() -> float:
    """Return the peak resident memory of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)


def take_in(workspace: Workspace, patience: float = 0.0) -> None:
    """Ingest what waits in the inbox, unless a server does or somebody has the catalogue open: then it waits on."""
    if catalogue.server_lives(workspace):
        return
    try:
        with catalogue.writing(workspace, patience) as connection:
            ingest_inbox(workspace, connection)
    except catalogue.LockedError:
        return


class Courier:
    """Brings finished steps to the catalogue: drops them, and ingests them if no server does."""

    def __init__(self, workspace: Workspace, plan: Plan) -> None:
        self.workspace, self.plan = workspace, plan
        self.known = self._prepare()

    def _prepare(self) -> set[str]:
        """Check the catalogue (creating it where nobody else has it) and return what it holds of this study."""
        if not catalogue.server_lives(self.workspace):
            try:
                with catalogue.writing(self.workspace, patience=1.0) as connection:
                    check_writable(self.workspace, connection)
                    ingest_inbox(self.workspace, connection)
            except catalogue.LockedError:
                pass  # somebody reads or owns it at the moment: drops wait
        try:
            known = repository.ingested(self.workspace, self.plan.study_id)
        except catalogue.LockedError:
            return set()
        except CatalogueError:
            if catalogue.server_lives(self.workspace):
                return set()
            raise
        # Another plan of the same study (the task's code changed) replaces it: then everything is delivered again.
        return known if self.plan.key in known else set()

    def deliver(self, key: str, name: str, label: str, context: Mapping[str, Any], ingest: bool = True) -> None:
        """Drop one finished step unless the catalogue has it."""
        if key in self.known and "missing" not in context:
            return
        faults.reach(name, "undropped")
        write_drop(
            self.workspace,
            {"kind": "step", "study_id": self.plan.study_id, "key": key, "label": label, "context": dict(context)},
        )
        self.known.add(key)
        if ingest:
            take_in(self.workspace)

    def finish(self) -> int:
        """Wait a little until everything is in the catalogue; return how many drops still wait."""
        deadline = time.monotonic() + FINAL_PATIENCE_SECONDS
        while pending_drops(self.workspace) and time.monotonic() < deadline:
            if catalogue.server_lives(self.workspace):
                time.sleep(0.1)
            else:
                take_in(self.workspace, deadline - time.monotonic())
        return len(pending_drops(self.workspace))
