"""Run a plan: skip what is finished, have the rest computed, hand every result to the catalogue.

There is one loop. Where steps are computed is the backend's affair: in this process, or on the workers of a cluster.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from tda_backend.errors import IncompleteError, MachineError, TDAError
from tda_backend.studies.pipeline.available import available_bytes
from tda_backend.studies.pipeline.backend import FAILURES, Backend, Ended, LocalBackend
from tda_backend.studies.pipeline.compute import peak_memory_mib
from tda_backend.studies.pipeline.courier import Courier
from tda_backend.studies.pipeline.listener import Listener
from tda_backend.studies.pipeline.outcome import Done, Effort, Outcome
from tda_backend.studies.pipeline.plan import Plan
from tda_backend.studies.pipeline.sizes import GIB, LEAST_SHARE, in_words
from tda_backend.studies.pipeline.step import Step
from tda_backend.studies.store.artifacts import ArtifactStore, provisional_key
from tda_backend.studies.store.drop import Kinds
from tda_backend.studies.store.record import write_study_record
from tda_backend.studies.store.workspace import Workspace

BLOCK_SHARES = (1.0, 1 / 2, 1 / 4, 1 / 8, LEAST_SHARE)
"""Sizes of blocks that are tried, as shares of the usual one."""


def execute(
    plan: Plan,
    workspace: Workspace,
    listener: Listener,
    kinds: Kinds,
    backend: Backend | None = None,
    memory: float | None = None,
) -> Outcome:
    """Compute what is missing of a plan; the arguments are those of :func:`attempt`.

    Raises:
        IncompleteError: Some steps cannot be computed; all others are kept.
        TDAError: As :func:`attempt`.
    """
    outcome = attempt(plan, workspace, listener, kinds, backend, memory)
    if outcome.failed:
        raise incomplete(plan, outcome)
    return outcome


def attempt(
    plan: Plan,
    workspace: Workspace,
    listener: Listener,
    kinds: Kinds,
    backend: Backend | None = None,
    memory: float | None = None,
    failed: Mapping[str, TDAError] | None = None,
) -> Outcome:
    """Compute what is missing of a plan, as far as it can be; the outcome says what could not.

    Args:
        plan: What to compute.
        workspace: Where artifacts and catalogue lie.
        listener: Told about progress.
        kinds: What each kind of step says about its rows.
        backend: Where steps are computed; ``None``: in this process.
        memory: GiB this run may use; ``None``: what the machine has.
        failed: Steps that are not tried again, by key, with the reason.

    Raises:
        MachineError: Not enough memory, or no space on the disk.
        CatalogueError: The catalogue cannot be used.
        TDAError: A step cannot be computed without which nothing else has a meaning; what was finished is kept.
    """
    started = time.perf_counter()
    plan = fitted(plan, memory)
    store = ArtifactStore(workspace.create().artifacts)
    courier = Courier(workspace, plan, kinds)
    write_study_record(store, plan.key, plan.study_id, plan.record)
    courier.deliver_study()
    listener.planned(plan)
    cached = _look_at_stored(plan, store, listener)
    listener.begin(plan, cached)
    run = _Run(plan, cached, store, courier, listener)
    run.failed |= {step.key: failed[step.key] for step in plan.steps if failed and step.key in failed}
    run.go(LocalBackend() if backend is None else backend)
    num_waiting = courier.finish()
    return _outcome(plan, run, time.perf_counter() - started, num_waiting)


def _outcome(plan: Plan, run: _Run, seconds: float, num_waiting: int) -> Outcome:
    steps, peak = [step for step, _ in run.ended], peak_memory_mib()
    planned = Effort(sum(step.cost.seconds for step in steps), plan.memory_gib(plan.block_share, steps))
    took = Effort(sum(took for _, took in run.ended), peak / 1024)
    return Outcome(run.done, seconds, num_waiting, peak, planned, took, run.failed)


def _look_at_stored(plan: Plan, store: ArtifactStore, listener: Listener) -> dict[str, bool]:
    """Return by key which steps are finished, every byte of their results verified: of many GB that takes minutes."""
    cached = {}
    for number, step in enumerate(plan.steps, 1):
        cached[step.key] = store.usable(step.key, thorough=True)
        listener.looked_at(number, len(plan.steps))
    return cached


@dataclass(frozen=True)
class _Started:
    """A step that the backend computes.

    Attributes:
        planned: As the plan has it.
        step: As it is computed: without those inputs that failed.
    """

    planned: Step
    step: Step


class _Run:
    """The state of a run: which steps wait, which are computed, and how the others ended."""

    def __init__(
        self, plan: Plan, cached: Mapping[str, bool], store: ArtifactStore, courier: Courier, listener: Listener
    ) -> None:
        self._plan, self._cached, self._store = plan, cached, store
        self._courier, self._listener = courier, listener
        self._waiting = {step.key: step for step in plan.present_steps}
        self._started: dict[str, _Started] = {}
        self._settled: set[str] = set()
        self.failed: dict[str, TDAError] = {}
        self.ended: list[tuple[Step, float]] = []  # computed, with the seconds that each took
        self.done: dict[str, Done] = {}

    def go(self, backend: Backend) -> None:
        """Have everything computed that can be."""
        backend.open(self._plan, self._store, self._listener)
        try:
            while self._waiting or self._started:
                ready = list(self._ready(backend.room))
                if ready:
                    self._started |= {each.step.key: each for each in ready}
                    later = [step for step in self._waiting.values() if not self._cached[step.key]]
                    backend.start([each.step for each in ready], later)
                assert self._started or not self._waiting, "a step reads one that its plan does not have before it"
                if self._started:
                    self._courier.take_in(min(each.step.cost.seconds for each in self._started.values()))
                    for ended in backend.wait():
                        self._take(ended)
        except BaseException:
            backend.cancel()
            with contextlib.suppress(TDAError):
                self._courier.take_in(math.inf)
            raise
        finally:
            backend.close()

    def _ready(self, room: int) -> Iterator[_Started]:
        """Take steps from those that wait, in the plan's order, until there is no room for another one to compute."""
        for step in list(self._waiting.values()):
            if room == 0:
                return
            if not self._cached[step.key] and not self._is_settled(step):
                continue
            del self._waiting[step.key]
            if self._cached[step.key]:
                self._skip(step)
            elif step.key in self.failed:
                continue
            elif (possible := self._possible(step)) is not None:
                room -= 1
                yield _Started(step, possible)

    def _is_settled(self, step: Step) -> bool:
        """Return whether all inputs of a step are there or have failed."""
        return all(each.key in self._settled or each.key in self.failed for each in step.all_inputs())

    def _skip(self, step: Step) -> None:
        self._settled.add(step.key)
        self._courier.deliver(step)
        self._listener.step_finished(step, 0.0, True)
        self.done[step.key] = Done(step.label, False)

    def _possible(self, step: Step) -> Step | None:
        """Return a step as it can be computed: whole, without the inputs that failed, or not at all."""
        lost = {role: each.key for role, steps in step.inputs().items() for each in steps if each.key in self.failed}
        if not lost:
            return step
        self.failed[step.key] = self.failed[next(iter(lost.values()))]
        if not step.can_do_without(lost):
            return None
        self._store.remove(provisional_key(step.key))  # of a run in which something else may have failed
        return step.without({role: self._reason(key) for role, key in lost.items()})

    def _reason(self, key: str) -> str:
        label = next(step.label for step in self._plan.steps if step.key == key)
        return f"{label} could not be computed: {self.failed[key].message}"

    def _take(self, ended: Ended) -> None:
        """Note how a step ended.

        Raises:
            TDAError: The run ends with it.
        """
        each = self._started.pop(ended.key)
        planned, step = each.planned, each.step
        if ended.error is not None:
            if planned.IS_FOUNDATION or not isinstance(ended.error, FAILURES):
                raise ended.error
            self.failed[planned.key] = ended.error
            self._listener.step_failed(planned, ended.error)
            return
        if step is planned:
            self._settled.add(step.key)
            if step.optional_roles():
                self._store.remove(provisional_key(step.key))
        self._courier.deliver(step)
        self._listener.step_finished(planned, ended.seconds, False)
        for remark in self._store.open(step.key).remarks:
            self._listener.step_remarked(planned, remark)
        self.ended.append((step, ended.seconds))
        self.done[step.key] = Done(step.label, True)


def incomplete(plan: Plan, outcome: Outcome) -> IncompleteError:
    """Return an error that says what went wrong: which step, how many others, and the first cause."""
    steps = [step for step in plan.steps if step.key in outcome.failed]
    causes = list(dict.fromkeys(outcome.failed[step.key] for step in steps))
    more = f" and {len(causes) - 1} other steps" if len(causes) > 1 else ""
    error = IncompleteError(
        f"{steps[0].label}{more} could not be computed; all else is kept. {causes[0].message}", causes[0].hint
    )
    error.num_computed, error.num_cached = len(outcome.computed), len(outcome.cached)
    error.seconds = outcome.seconds
    error.__cause__ = causes[0]
    return error


def fitted(plan: Plan, memory: float | None) -> Plan:
    """Return a plan with blocks as large as its memory allows; results do not depend on them.

    Args:
        plan: To be computed.
        memory: GiB that may be used; ``None``: what the machine has.

    Raises:
        MachineError: It does not fit with the smallest blocks; names what would.
    """
    available = memory if memory is not None else available_bytes() / GIB
    share = next((share for share in BLOCK_SHARES if plan.memory_gib(share) <= available), None)
    if share is not None:
        return replace(plan, block_share=share)
    words = in_words(available)
    given = f"--memory {memory:g} allows {memory:g}" if memory is not None else f"this machine has {words} free"
    found = [] if plan.what_fits is None else plan.what_fits(available)
    raise MachineError(
        f"The study needs about {in_words(plan.memory_gib(LEAST_SHARE))} GiB of memory; {given}. "
        f"Most of it goes to {plan.largest.label}.",
        f"What fits: {', or '.join(found)}. Else raise --memory."
        if found
        else "Take fewer or smaller examples, a smaller projection or a smaller model, or raise --memory.",
    )
