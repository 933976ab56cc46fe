"""The one loop of a run, with plans of trivial steps: order, optional inputs, failures, foundations, interrupts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tda_backend.errors import IncompleteError, MachineError, NumericalError
from tda_backend.interfaces.cli.running import how_right
from tda_backend.studies.pipeline.backend import Backend, Ended, LocalBackend
from tda_backend.studies.pipeline.context import RunContext
from tda_backend.studies.pipeline.courier import FINAL_PATIENCE_SECONDS, Courier
from tda_backend.studies.pipeline.executor import Effort, Outcome, execute
from tda_backend.studies.pipeline.plan import Plan, planned_steps
from tda_backend.studies.pipeline.step import Cost, Step
from tda_backend.studies.store import catalogue, owners, repository
from tda_backend.studies.store.artifacts import ArtifactStore, provisional_key
from tda_backend.studies.store.tables.bookkeeping import INGESTED
from tda_backend.studies.store.workspace import Workspace
from tests.runs.fake_plans import Base, Judge, Notes, Number, fake_plan

KINDS = {kind.NAME: kind for kind in (Number, Base, Judge)}


class Several(LocalBackend):
    """A backend with room for several steps; the one that was started last ends first."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.all_room, self.most, self.cancelled, self.closed = room, 0, False, False

    @property
    def room(self) -> int:
        return self.all_room - len(self._steps)

    def start(self, steps: Sequence[Step], later: Sequence[Step]) -> None:
        super().start(steps, later)
        self.most = max(self.most, len(self._steps))

    def cancel(self) -> None:
        self.cancelled = True

    def close(self) -> None:
        super().close()
        self.closed = True


class Interrupted(Several):
    """A backend that is interrupted while it computes its second step."""

    def wait(self) -> Sequence[Ended]:
        if self._context is not None:
            raise KeyboardInterrupt
        return super().wait()


def run(plan: Plan, folder: Path, notes: Notes, backend: Backend | None = None) -> Outcome:
    return execute(plan, Workspace.at(folder / "w" / "c.duckdb"), notes, KINDS, backend)


def number(plan: Plan, folder: Path, label: str, provisional: bool = False) -> float:
    """Return what a step has written."""
    key = next(step.key for step in plan.steps if step.label == label)
    store = ArtifactStore(Workspace.at(folder / "w" / "c.duckdb").artifacts)
    return store.open(provisional_key(key) if provisional else key).array("number").item()


def ladder(folder: Path, **behaviours: str) -> Plan:
    """Return a plan: a base, three numbers on it, a sum of two of them, and a judge of all three."""
    base = Base(label="base", value=1, behaviour=behaviours.get("base", ""))
    ones = [
        Number(label=name, value=place, reads=(base,), behaviour=behaviours.get(name, ""))
        for place, name in enumerate(("one", "two", "three"), 1)
    ]
    judge = Judge(label="judge", value=0, candidates={each.label: each for each in ones})
    return fake_plan(folder, base, *ones, Number(label="sum", value=0, reads=tuple(ones[:2])), judge)


def test_this_process_computes_in_the_order_of_the_plan_and_nothing_twice(tmp_path: Path):
    plan, notes = ladder(tmp_path), Notes()
    outcome = run(plan, tmp_path, notes)
    labels = ["base", "one", "two", "three", "sum", "judge"]
    assert notes.started == notes.finished == outcome.computed == labels
    assert notes.progress[:2] == [("base", 1, 2), ("base", 2, 2)]
    assert number(plan, tmp_path, "sum") == 5
    assert number(plan, tmp_path, "judge") == 9
    again = Notes()
    assert run(plan, tmp_path, again).cached == again.cached == labels
    assert not again.started
    assert set(repository.query(Workspace.at(tmp_path / "w" / "c.duckdb"), "FROM ingested")["label"]) == {
        "study",
        *labels,
    }


def test_a_run_says_what_its_own_steps_were_to_take(tmp_path: Path):
    plan = ladder(tmp_path)
    costs = {"one": Cost(3.0, 1.5), "judge": Cost(20.0, 0.25), "base": Cost(7.0, 9.0)}
    plan = replace(plan, steps=tuple(replace(each, cost=costs.get(each.label, Cost(0.5))) for each in plan.steps))
    first = run(replace(plan, steps=plan.steps[:1]), tmp_path, Notes())
    assert first.planned == Effort(7.0, plan.base_gib + 9.0)
    rest = run(plan, tmp_path, Notes())
    assert rest.planned == Effort(3.0 + 20.0 + 3 * 0.5, plan.base_gib + 1.5)
    assert 0 < rest.took.seconds <= rest.seconds
    assert rest.took.gib == rest.peak_memory_mib / 1024
    nothing = run(plan, tmp_path, Notes())
    assert nothing.planned == Effort(0, plan.base_gib)
    words = how_right(Effort(25.0, 0.9), Effort(31.0, 0.8))
    assert words == "Planned 25 s and 0.90 GiB; took 31 s (×1.2) and 0.80 GiB (×0.9)."


def test_what_is_finished_is_skipped_where_the_plan_has_it(tmp_path: Path):
    plan = ladder(tmp_path)
    with pytest.raises(IncompleteError):
        run(ladder(tmp_path, two="fail"), tmp_path, Notes())
    notes = Notes()
    assert run(plan, tmp_path, notes).cached == ["base", "one", "three"]
    assert notes.finished == ["two", "sum", "judge"]


def test_stored_results_are_verified_with_the_record_written_and_progress_told(tmp_path: Path, monkeypatch):
    plan = fake_plan(tmp_path, *(Number(label=str(value), value=value) for value in range(3)))
    notes, usable = Notes(), ArtifactStore.usable
    run(plan, tmp_path, notes)
    seen: list[bool] = []

    def looking(store: ArtifactStore, key: str, thorough: bool = False) -> bool:
        if thorough:
            seen.append(store.has(plan.key))
        return usable(store, key, thorough)

    ArtifactStore(tmp_path / "w" / "artifacts").remove(plan.key)
    monkeypatch.setattr(ArtifactStore, "usable", looking)
    again = Notes()
    run(plan, tmp_path, again)
    assert seen == [True] * len(plan.steps)
    assert again.looked == [(number, len(plan.steps)) for number in range(1, len(plan.steps) + 1)]


def test_a_backend_with_room_gets_what_is_ready_in_any_order_of_ending(tmp_path: Path):
    plan, notes, backend = ladder(tmp_path), Notes(), Several(2)
    run(plan, tmp_path, notes, backend)
    assert backend.most == 2
    assert notes.finished == ["base", "two", "three", "one", "judge", "sum"]
    assert number(plan, tmp_path, "judge") == 9
    assert backend.closed
    assert not backend.cancelled


@pytest.mark.parametrize("room", [1, 3])
def test_a_failure_takes_along_what_needs_it_and_nothing_else(tmp_path: Path, room: int):
    plan, notes = ladder(tmp_path, two="fail"), Notes()
    with pytest.raises(IncompleteError) as caught:
        run(plan, tmp_path, notes, Several(room))
    assert str(caught.value) == "two could not be computed; all else is kept. two is broken. Mend it."
    assert (caught.value.num_computed, caught.value.num_cached) == (4, 0)
    assert notes.failed == [("two", "two is broken.")]
    assert set(notes.finished) == {"base", "one", "three", "judge"}
    assert number(plan, tmp_path, "judge", provisional=True) == 6
    store = ArtifactStore(Workspace.at(tmp_path / "w" / "c.duckdb").artifacts)
    assert not store.has(plan.steps[-1].key)
    run(ladder(tmp_path), tmp_path, Notes(), Several(room))
    assert number(plan, tmp_path, "judge") == 9
    assert not store.has(provisional_key(plan.steps[-1].key))


def test_a_run_does_not_wait_for_what_its_own_results_have_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(IncompleteError):
        run(ladder(tmp_path, two="fail"), tmp_path, Notes())
    mended = ladder(tmp_path)
    courier = Courier(Workspace.at(tmp_path / "w" / "c.duckdb"), mended, KINDS)  # it knows of the provisional judge
    with catalogue.writing(Workspace.at(tmp_path / "w" / "c.duckdb")) as connection:  # as the whole judgement does
        INGESTED.delete(connection, study_id=mended.study_id, label="judge")
    monkeypatch.setattr(owners, "server_lives", lambda workspace: True)
    begun = time.monotonic()
    assert courier.finish() == 0
    assert time.monotonic() - begun < FINAL_PATIENCE_SECONDS / 2


@pytest.mark.parametrize("room", [1, 3])
def test_the_first_cause_is_the_first_of_the_plan(tmp_path: Path, room: int):
    with pytest.raises(IncompleteError) as caught:
        run(ladder(tmp_path, one="fail", three="fail"), tmp_path, Notes(), Several(room))
    assert str(caught.value).startswith("one and 1 other steps could not be computed; all else is kept. one is broken.")


def test_nothing_to_judge_is_no_judgement(tmp_path: Path):
    plan, notes = ladder(tmp_path, one="fail", two="fail", three="fail"), Notes()
    with pytest.raises(IncompleteError, match="one and 2 other steps"):
        run(plan, tmp_path, notes)
    assert notes.finished == ["base"]


def test_without_its_foundation_a_run_ends(tmp_path: Path):
    notes, backend = Notes(), Several(2)
    with pytest.raises(NumericalError, match="base is broken"):
        run(ladder(tmp_path, base="fail"), tmp_path, notes, backend)
    assert notes.started == ["base"]
    assert backend.cancelled
    assert backend.closed


def test_a_full_disk_ends_a_run(tmp_path: Path):
    with pytest.raises(MachineError, match="The disk is full"):
        run(ladder(tmp_path, one="disk"), tmp_path, Notes())


def test_an_interrupt_cancels_what_is_computed(tmp_path: Path):
    notes, backend = Notes(), Interrupted(2)
    with pytest.raises(KeyboardInterrupt):
        run(ladder(tmp_path), tmp_path, notes, backend)
    assert notes.finished == ["base"]
    assert backend.cancelled
    assert backend.closed


def test_training_processes_are_kept_as_far_ahead_as_a_step_says(tmp_path: Path, monkeypatch):
    closed: list[int] = []
    monkeypatch.setattr("tda_backend.studies.pipeline.backend.close_pool", lambda: closed.append(1))
    seen: list[int] = []

    class Trains(Number):
        NAME = "fake-training"
        POOL_REACH = 2

        def run(self, context: RunContext, writer) -> None:
            super().run(context, writer)

    class Counting(Notes):
        def step_finished(self, step: Step, seconds: float, cached: bool) -> None:
            super().step_finished(step, seconds, cached)
            seen.append(len(closed))

    drafts = [Number(label=name, value=place) for place, name in enumerate("abc")]
    plan = fake_plan(tmp_path, *drafts, Trains(label="training", value=9), Number(label="last", value=10))
    run(plan, tmp_path, Counting())
    assert seen == [1, 1, 1, 2, 3]


def test_more_memory_than_allowed_is_refused(tmp_path: Path):
    plan = ladder(tmp_path)
    large = replace(plan, steps=tuple(replace(step, cost=replace(step.cost, memory_gib=3.0)) for step in plan.steps))
    with pytest.raises(MachineError, match=r"needs about 3\.4 GiB of memory; --memory 2 allows 2"):
        execute(large, Workspace.at(tmp_path / "w" / "c.duckdb"), Notes(), KINDS, memory=2)


def test_a_plan_lists_memory_and_disk_of_its_steps(tmp_path: Path):
    plan = ladder(tmp_path)
    plan = replace(plan, steps=(replace(plan.steps[0], cost=Cost(2.0, 0.5, stored_gib=0.25)), *plan.steps[1:]))
    first, second, *_ = planned_steps(plan, ArtifactStore(Workspace.at(tmp_path / "w" / "c.duckdb").artifacts))
    assert (first.seconds, first.memory_gib, first.disk_gib) == (2.0, plan.base_gib + 0.5, 0.25)
    assert (second.memory_gib, second.disk_gib) == (plan.base_gib, 0.0)
