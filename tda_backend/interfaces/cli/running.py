"""``tda run``: from what a person asks for to a finished study."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import sys
from collections.abc import Mapping
from dataclasses import astuple
from pathlib import Path

from rich.console import Console

from tda_backend.errors import IncompleteError, StudyError, TDAError, UsageError, command
from tda_backend.interfaces.cli.interruption import interruptible
from tda_backend.interfaces.cli.overview import print_remarks
from tda_backend.interfaces.cli.printing import duration, print_line
from tda_backend.interfaces.cli.report import RunReport
from tda_backend.interfaces.cli.request import changed_task_line, requested_plan, requested_study, retraining_line
from tda_backend.interfaces.cli.verb import EXIT_INTERRUPTED
from tda_backend.interfaces.cli.verdicts import print_verdicts
from tda_backend.interfaces.reading.records.base import records
from tda_backend.interfaces.reading.records.verdicts import Verdict
from tda_backend.interfaces.reading.study import open_study
from tda_backend.studies.jobs.jobs import running_jobs
from tda_backend.studies.jobs.progress import JobFile
from tda_backend.studies.pipeline.courier import take_in
from tda_backend.studies.pipeline.executor import attempt, fitted
from tda_backend.studies.pipeline.outcome import Effort, Outcome
from tda_backend.studies.pipeline.plan import Plan
from tda_backend.studies.pipeline.sizes import in_words
from tda_backend.studies.runs.ray import RayBackend
from tda_backend.studies.runs.rounds import execute_rounds, is_open
from tda_backend.studies.steps.table import KINDS
from tda_backend.studies.store.artifacts import ArtifactStore
from tda_backend.studies.store.catalogue import held
from tda_backend.studies.store.inbox import EndedJob, write_drop
from tda_backend.studies.store.locks import Planning
from tda_backend.studies.store.workspace import Workspace

ON_RAY = "ray"


def run_study(arguments: argparse.Namespace, console: Console) -> int:
    """Run a study; every end, Ctrl-C included, leaves the finished steps and a job file that says what happened."""
    workspace = Workspace.at(arguments.db).create()
    job = JobFile(workspace, arguments.study or arguments.task or "")
    is_typed = Path(sys.argv[0]).stem in ("tda", "__main__")
    again = command(*sys.argv[1:]) if is_typed else "the same command"
    report = RunReport(console, job)
    try:
        with interruptible(job.path, again), contextlib.closing(Planning(workspace)) as planning:
            report = RunReport(console, job, planning)
            code = _run(arguments, workspace, job, report, console)
    except TDAError as error:
        report.end()
        job.close("failed", error.message, error.hint)
        with contextlib.suppress(TDAError):  # a full disk or a damaged catalogue is what is being reported
            done = error if isinstance(error, IncompleteError) else IncompleteError("")
            _drop_job(workspace, job, "failed", done.num_computed, done.num_cached, done.seconds)
        raise
    except KeyboardInterrupt:
        report.end()
        job.close("cancelled", "Interrupted.", f"Go on with: {again}")
        with contextlib.suppress(TDAError):
            _drop_job(workspace, job, "cancelled", 0, 0, 0.0)
        print_line(Console(stderr=True), f"Interrupted. Finished steps are kept; go on with: {again}")
        return EXIT_INTERRUPTED
    except BaseException as error:
        report.end()
        job.close("failed", f"{type(error).__name__}: {error}", "This is a bug; run again with --debug to see where.")
        raise
    return code


def _run(arguments: argparse.Namespace, workspace: Workspace, job: JobFile, report: RunReport, console: Console) -> int:
    study = requested_study(arguments, workspace)
    job.update(study=study.name, step="loading the task")
    if arguments.memory is not None and arguments.memory <= 0:
        raise StudyError(f"--memory {arguments.memory:g} is not allowed.", "Give GiB, e.g. --memory 4.")
    store = ArtifactStore(workspace.artifacts)
    plan = requested_plan(arguments, study, store)
    _refuse_twice(workspace, plan.study_id, plan.name)
    job.update(study_id=plan.study_id)
    most = "at most " if is_open(plan, store) else ""
    print_line(console, f"Study {plan.name} ({plan.study_id}): {most}{len(plan.steps)} steps in {workspace.folder}")
    changed = changed_task_line(plan, workspace)
    if changed:
        print_line(console, changed)
    cost = retraining_line(plan, store)
    if cost:
        print_line(console, cost)
    fitted(plan, arguments.memory)  # a later round is not the one to find that there is too little
    backend = RayBackend() if arguments.executor == ON_RAY else None

    def compute(part: Plan, failed: Mapping[str, TDAError]) -> Outcome:
        return attempt(part, workspace, report, KINDS, backend, arguments.memory, failed)

    outcome = execute_rounds(plan, compute, store, report.found)
    report.end()
    computed, cached = len(outcome.computed), len(outcome.cached)
    message = f"{computed} steps computed, {cached} cached"
    job.close("done", message)
    _drop_job(workspace, job, "done", computed, cached, outcome.seconds)
    if not outcome.num_waiting:
        with held(workspace):
            opened = open_study(plan.study_id, workspace)
            print_verdicts(console, records(opened.verdicts(), Verdict), arguments.quick)
            print_remarks(opened, console)
    tail = f"; peak memory {outcome.peak_memory_mib:.0f} MiB" if computed else ""
    db = f" --db {shlex.quote(arguments.db)}" if arguments.db else ""
    console.print(f"{message} in {duration(outcome.seconds)}{tail}.", highlight=False, markup=False)
    if computed and backend is None:  # of other machines a plan knows nothing
        print_line(console, how_right(outcome.planned, outcome.took))
    print_line(console, f"Look: {command('select', plan.name)}{db} · tda serve{db}")
    if outcome.num_waiting:
        print_line(
            console,
            f"{outcome.num_waiting} results wait in {workspace.inbox}: another program holds the catalogue. The next "
            "`tda run` or `tda serve` takes them in.",
        )
    return 0


def how_right(planned: Effort, took: Effort) -> str:
    """Return one sentence that compares what a plan said with what its steps took."""
    times, memory = (after / max(before, 1e-9) for before, after in zip(astuple(planned), astuple(took), strict=True))
    return (
        f"Planned {duration(planned.seconds)} and {in_words(planned.gib)} GiB; took {duration(took.seconds)} "
        f"(×{times:.1f}) and {in_words(took.gib)} GiB (×{memory:.1f})."
    )


def _refuse_twice(workspace: Workspace, study_id: str, name: str) -> None:
    """Raise a UsageError if another process computes the same study: it would do everything twice."""
    busy = running_jobs(workspace, study_id)
    if busy:
        pid = busy[0].pid
        raise UsageError(
            f"Study {name} is being computed already by process {pid}.", "Wait for it, or cancel it first."
        )


def _drop_job(workspace: Workspace, job: JobFile, status: str, computed: int, cached: int, seconds: float) -> None:
    """Leave the run's row for the catalogue; taken in by the owner, or with the next drop."""
    state = job.state
    if not state.study_id or (status == "done" and computed == 0):
        return  # a run that did nothing leaves nothing
    write_drop(
        workspace,
        EndedJob(
            study_id=state.study_id,
            job_id=state.job_id,
            status=status,
            started=state.started,
            finished=state.updated,
            seconds=seconds,
            steps_computed=computed,
            steps_cached=cached,
            message=state.message,
        ),
    )
    take_in(workspace, KINDS)
