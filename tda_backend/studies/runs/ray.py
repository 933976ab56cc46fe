"""Compute steps on a Ray cluster, with artifacts on a path that every machine sees.

Ray is the optional extra ``ray``. A plan travels once; each worker process loads its task once. Steps that share what
nothing stores (spectra of one checkpoint its Gram matrix and draw) go to one worker together.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tda_backend.studies.claims
import tda_backend.studies.methods  # noqa: F401  # workers import this module: so they know all kinds
from tda_backend.errors import MachineError, TDAError
from tda_backend.models.tasks.registry import load_task, task_folder
from tda_backend.models.training.retraining.processes import close_pool
from tda_backend.studies.config.study import Study
from tda_backend.studies.pipeline.backend import FAILURES, Ended
from tda_backend.studies.pipeline.compute import compute
from tda_backend.studies.pipeline.context import RunContext
from tda_backend.studies.pipeline.facts import task_facts
from tda_backend.studies.pipeline.listener import Listener
from tda_backend.studies.pipeline.plan import Plan, torch_release
from tda_backend.studies.pipeline.step import Step
from tda_backend.studies.runs.mailbox import Mailbox, Progressed
from tda_backend.studies.store.artifacts import ArtifactStore

POLL_SECONDS = 0.2
"""How often the driver asks how far the workers are."""
TELL_SECONDS = 0.2
"""How often a worker tells."""
RETRIES = 3
"""How often steps are computed again whose worker died."""

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


def units_of(steps: Iterable[Step]) -> list[Unit]:
    """Return the steps in groups that belong on one worker, each in the order given."""
    groups: dict[str, list[Step]] = {}
    for step in steps:
        groups.setdefault(step.affinity(), []).append(step)
    return [tuple(group) for group in groups.values()]


@dataclass(frozen=True)
class Parcel:
    """A plan as it travels: with the name of its task instead of the task, which may be a person's own class.

    Attributes:
        study_id: Of the plan.
        study: Of the plan.
        device: Of the plan.
        steps: Of the plan.
        record: Of the plan.
        key: Of the plan.
        block_share: Of the plan.
        task: How to load the task.
        folder: Where its module is looked up first; ``None``: it is no module.
        fingerprint: Of the task.
        torch: Version that the driver has.
    """

    study_id: str
    study: Study
    device: str
    steps: tuple[Step, ...]
    record: Mapping[str, Any]
    key: str
    block_share: float
    task: str
    folder: str | None
    fingerprint: str
    torch: str

    @classmethod
    def pack(cls, plan: Plan) -> Parcel:
        """Return a plan as it travels."""
        facts = plan.facts
        return cls(
            study_id=plan.study_id,
            study=plan.study,
            device=plan.device,
            steps=plan.steps,
            record=plan.record,
            key=plan.key,
            block_share=plan.block_share,
            task=facts.spec,
            folder=task_folder(facts.task),
            fingerprint=facts.fingerprint,
            torch=torch_release(),
        )

    def unpack(self) -> Plan:
        """Load the task and return the plan.

        Raises:
            MachineError: This process has another task, or another torch, than the driver.
        """
        if torch_release() != self.torch:
            raise MachineError(
                "A Ray worker has another torch than the driver.", "Install the same versions everywhere."
            )
        facts = task_facts(load_task(self.task, self.folder), self.task)
        if facts.fingerprint != self.fingerprint:
            raise MachineError(
                f"A Ray worker sees other code or data of task {facts.task.name!r} than the driver.",
                "Put the same files on every machine.",
            )
        return Plan(self.study_id, self.study, facts, self.device, self.steps, self.record, self.key, self.block_share)


@dataclass(frozen=True)
class Order:
    """What every unit of a run is sent with.

    Attributes:
        key: Of the plan.
        artifacts: Folder of the store.
        parcel: The reference to the plan, in a list: Ray fetches the plan for none but those who ask.
        mailbox: Where progress is told.
    """

    key: str
    artifacts: Path
    parcel: list[Any]
    mailbox: Any


_contexts: dict[tuple[str, Path], RunContext] = {}
"""The context of the plan that this worker process computes for."""


def compute_unit(unit: Unit, order: Order) -> list[Ended]:
    """Compute some steps on a worker, one after the other; those that a worker before this one has finished are there.

    Raises:
        MachineError: This process has another task, or another torch, than the driver.
        TDAError: The task cannot be loaded.
    """
    context = _context_of(order)
    ended: list[Ended] = []
    try:
        for number, step in enumerate(unit):
            context.later = unit[number + 1 :]
            ended.append(_computed(context, step, order.mailbox))
            if ended[-1].error is not None and not isinstance(ended[-1].error, FAILURES):
                break
    finally:
        context.memo.clear()
    return ended


def _context_of(order: Order) -> RunContext:
    place = (order.key, order.artifacts)
    if place not in _contexts:
        _contexts.clear()
        plan = import_ray().get(order.parcel[0]).unpack()
        store = ArtifactStore(order.artifacts)
        _contexts[place] = RunContext.begin(plan.study, plan.facts, plan.device, store, plan.block_share)
    return _contexts[place]


def _computed(context: RunContext, step: Step, mailbox: Any) -> Ended:
    if context.store.usable(step.key):
        return Ended(step.key, context.store.open(step.key).seconds)
    if step.POOL_REACH is None:
        close_pool()  # the memory of this worker's training processes is wanted for the step
    told = 0.0

    def on_progress(done: int, total: int) -> None:
        nonlocal told
        now = time.monotonic()
        if done >= total or now - told > TELL_SECONDS:
            told = now
            mailbox.put.remote(Progressed(step.key, done, total))

    mailbox.put.remote(Progressed(step.key))
    try:
        return Ended(step.key, compute(context, step, on_progress))
    except TDAError as error:
        return Ended(step.key, error=error)


class RayBackend:
    """The workers of a Ray cluster: the one that is there, or one on this machine for the time of the run.

    Raises:
        MachineError: Ray is not installed.
    """

    def __init__(self) -> None:
        self._ray = import_ray()
        self._running: dict[Any, Unit] = {}
        self._working: dict[str, Step] = {}
        self._begun: set[str] = set()
        self._order: Order | None = None
        self._is_host = False

    def open(self, plan: Plan, store: ArtifactStore, listener: Listener) -> None:
        """Take notice of a plan; nothing is started before there is something to compute."""
        self._plan, self._store, self._listener = plan, store, listener

    @property
    def room(self) -> int:
        """Any number of steps: Ray has a queue."""
        return sys.maxsize

    def start(self, steps: Sequence[Step], later: Sequence[Step]) -> None:
        """Put steps into Ray's queue, those that belong on one worker together."""
        order = self._connected()
        gpus = 1 if self._plan.device.startswith("cuda") else 0
        remote = self._ray.remote(compute_unit).options(num_gpus=gpus, max_retries=RETRIES)
        for unit in units_of(steps):
            self._running[remote.remote(unit, order)] = unit
            self._working |= {step.key: step for step in unit}

    def _connected(self) -> Order:
        if self._order is None:
            self._is_host = not self._ray.is_initialized()
            if self._is_host:
                self._init()
            if len(self._ray.nodes()) == 1:  # else nobody can tell whether a writer on another machine lives
                self._store.clear_leftovers()
            mailbox = self._ray.remote(Mailbox).options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()
            parcel = self._ray.put(Parcel.pack(self._plan))
            self._order = Order(self._plan.key, self._store.folder.resolve(), [parcel], mailbox)
        return self._order

    def _init(self) -> None:
        """Connect to the cluster that ``RAY_ADDRESS`` names, or start one; SIGTERM keeps its meaning."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        handler = signal.getsignal(signal.SIGTERM)
        self._ray.init(log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)

    def wait(self) -> Sequence[Ended]:
        """Wait for a unit, and tell the listener meanwhile how far all are."""
        ended: Sequence[Any] = ()
        while not ended:
            ended, _ = self._ray.wait(list(self._running), num_returns=1, timeout=POLL_SECONDS)
            assert self._order is not None
            for event in self._ray.get(self._order.mailbox.take.remote()):
                self._tell(event)
        return [each for task in ended for each in self._results(task)]

    def _tell(self, event: Progressed) -> None:
        step = self._working.get(event.key)
        if step is None:  # it ended before its last word came
            return
        if event.key not in self._begun:
            self._begun.add(event.key)
            self._listener.step_started(step)
        if event.total:
            self._listener.step_progress(step, event.done, event.total)

    def _results(self, task: Any) -> list[Ended]:
        """Return how the steps of a unit ended.

        Raises:
            MachineError: Its worker died, again and again.
            TDAError: The worker could not begin.
        """
        unit = self._running.pop(task)
        errors = self._ray.exceptions
        try:
            ended: list[Ended] = self._ray.get(task)
        except errors.RayTaskError as error:
            if isinstance(error.cause, TDAError):
                raise error.cause from None
            raise
        except errors.RayError as error:
            raise MachineError(
                f"The Ray worker that computed {unit[0].label} died {RETRIES + 1} times: {_first_line(error)}",
                "Look into Ray's logs; a machine without free memory ends workers.",
            ) from error
        for each in ended:
            self._tell(Progressed(each.key))
            del self._working[each.key]
        return ended

    def cancel(self) -> None:
        """End the workers of all units."""
        for task in self._running:
            self._ray.cancel(task, force=True)

    def close(self) -> None:
        """Leave the cluster as it was."""
        if self._order is not None:
            self._ray.kill(self._order.mailbox)
        if self._is_host:
            self._ray.shutdown()
            self._store.clear_leftovers()  # of workers that were cancelled
        self._order = None  # another plan may follow


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
