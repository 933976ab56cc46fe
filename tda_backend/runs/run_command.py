"""``tda run``: from what a person asks for to a finished study."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from tda_backend.errors import IncompleteError, MachineError, StudyError, TDAError, UsageError
from tda_backend.runs.progress import JobFile
from tda_backend.runs.quick import quick
from tda_backend.runs.reporting import RunReport, duration
from tda_backend.runs.study import default_study, override, read_study_file, resolve
from tda_backend.store import repository
from tda_backend.store.artifacts import ArtifactStore
from tda_backend.store.ingest import write_drop
from tda_backend.store.workspace import Workspace
from tda_backend.training.contract import persons_code
from tda_backend.types import Task

EXIT_INTERRUPTED = 130


def embedded_studies() -> dict[str, Path]:
    """Return the study files shipped in ``data/studies`` by name."""
    from tda_backend.training.data import data_folder

    return {path.stem: path for path in sorted((data_folder() / "studies").glob("*.toml"))}


def find_content(target: str, workspace: Workspace) -> dict[str, Any]:
    """Return the study that ``target`` names: a TOML file, an embedded study, or one of the catalogue.

    Raises:
        UsageError: There is none.
    """
    if target.endswith(".toml"):
        return read_study_file(Path(target).expanduser())
    embedded = embedded_studies()
    if target in embedded:
        return read_study_file(embedded[target])
    known: list[str] = []
    if workspace.catalogue.exists():
        names = repository.studies(workspace)
        known = list(dict.fromkeys(names["name"]))
        if target in known or target in set(names["study_id"]):
            return dict(repository.find_study(workspace, target)["config"])
    hint = f"Studies: {', '.join(dict.fromkeys([*embedded, *known]))}; or give a STUDY.toml, or --task FILE.py:factory."
    raise UsageError(f"There is no study called {target!r}.", hint)


def num_parameters(task: Task) -> int:
    """Return how many trainable parameters a task's model has."""
    with persons_code(task, "build_model(0)"):
        model = task.build_model(0)
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def study_content(arguments: argparse.Namespace, workspace: Workspace) -> dict[str, Any]:
    """Return the resolved study that the arguments ask for."""
    from tda_backend.training.data import num_rows, validate_data
    from tda_backend.training.registry import load_task

    if bool(arguments.study) == bool(arguments.task) and not (arguments.study and arguments.task):
        raise UsageError(
            "Nothing to run was named.", "E.g. `tda run mnist-mlp`, or `tda run --task my_task.py:factory`."
        )
    if arguments.study:
        content = find_content(arguments.study, workspace)
        if arguments.task:
            content["task"] = arguments.task
    else:
        task = load_task(arguments.task)
        data = validate_data(task)
        epochs = task.training.num_epochs if task.training is not None else len(task.checkpoint_files)
        content = default_study(
            task.name, arguments.task, num_rows(data["train"]), num_rows(data["test"]), max(1, epochs),
            num_parameters(task),
        )  # fmt: skip
        if not task.margin_identity:
            content["methods"].pop("trak")
        if task.training is None:
            content["ground_truth"] = {"subsets": 0}
    if arguments.quick:
        content = quick(content, num_parameters(load_task(str(content.get("task", "")))))
    return resolve(override(content, arguments.set))


def chosen_device(name: str) -> str:
    """Return the device for ``auto``, ``cpu``, ``cuda`` or ``mps``.

    Raises:
        MachineError: It is not there.
    """
    import torch

    from tda_backend.runs.facts import device_type

    device = device_type(name)
    if device == "cuda" and not torch.cuda.is_available():
        raise MachineError("There is no CUDA device that torch can use.", "Use --device cpu (or auto).")
    if device == "mps" and not torch.backends.mps.is_available():
        raise MachineError("There is no MPS device that torch can use.", "Use --device cpu (or auto).")
    return device


def run_command(arguments: argparse.Namespace, console: Console) -> int:
    """Run a study; every end, Ctrl-C included, leaves the finished steps and a job file that says what happened."""
    workspace = Workspace.at(arguments.db).create()
    job = JobFile(workspace, arguments.study or arguments.task or "")
    again = f"tda {' '.join(sys.argv[1:])}" if Path(sys.argv[0]).stem in ("tda", "__main__") else "the same command"
    _terminate_like_interrupt()
    report = RunReport(console, job)
    try:
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
        Console(stderr=True).print(
            f"Interrupted. Finished steps are kept; go on with: {again}", highlight=False, markup=False, soft_wrap=True
        )
        return EXIT_INTERRUPTED
    except BaseException as error:
        report.end()
        job.close("failed", f"{type(error).__name__}: {error}", "This is a bug; run again with --debug to see where.")
        raise
    return code


def _run(arguments: argparse.Namespace, workspace: Workspace, job: JobFile, report: RunReport, console: Console) -> int:
    study = study_content(arguments, workspace)
    job.update(study=study["name"], step="loading the task")
    if arguments.memory is not None and arguments.memory <= 0:
        raise StudyError(f"--memory {arguments.memory:g} is not allowed.", "Give GiB, e.g. --memory 4.")
    from tda_backend.runs.api import open_study
    from tda_backend.runs.executor import execute
    from tda_backend.runs.facts import task_facts
    from tda_backend.runs.paper_commands import print_verdicts
    from tda_backend.runs.plan import build_plan
    from tda_backend.runs.plan_command import planned_steps, retraining_line
    from tda_backend.training.registry import load_task

    facts = task_facts(load_task(study["task"]), study["task"])
    plan = build_plan(study, facts, chosen_device(arguments.device))
    _refuse_twice(workspace, plan.study_id, plan.name)
    job.update(study_id=plan.study_id)
    console.print(
        f"Study {plan.name} ({plan.study_id}): {len(plan.steps)} steps in {workspace.folder}", highlight=False,
        markup=False, soft_wrap=True,
    )  # fmt: skip
    cost = retraining_line(planned_steps(plan, ArtifactStore(workspace.artifacts)))
    if cost:
        console.print(cost, highlight=False, markup=False, soft_wrap=True)
    if arguments.executor == "ray":
        from tda_backend.runs.ray_executor import execute_on_ray

        outcome = execute_on_ray(plan, workspace, report, arguments.memory)
    else:
        outcome = execute(plan, workspace, report, arguments.memory)
    report.end()
    computed, cached = len(outcome.computed), len(outcome.cached)
    message = f"{computed} steps computed, {cached} cached"
    job.close("done", message)
    _drop_job(workspace, job, "done", computed, cached, outcome.seconds)
    if study.get("claims") and not outcome.num_waiting:
        verdicts = open_study(plan.study_id, workspace).verdicts().to_dict("records")
        print_verdicts(console, verdicts, arguments.quick)
    tail = f"; peak memory {outcome.peak_memory_mib:.0f} MiB" if computed else ""
    db = f" --db {arguments.db}" if arguments.db else ""
    console.print(f"{message} in {duration(outcome.seconds)}{tail}.", highlight=False, markup=False)
    console.print(f"Look: tda select {plan.name}{db} · tda serve{db}", highlight=False, markup=False, soft_wrap=True)
    if outcome.num_waiting:
        console.print(
            f"{outcome.num_waiting} results wait in {workspace.inbox}: another program holds the catalogue. The next "
            "`tda run` or `tda serve` takes them in.", highlight=False, markup=False, soft_wrap=True,
        )  # fmt: skip
    return 0


def _refuse_twice(workspace: Workspace, study_id: str, name: str) -> None:
    """Raise a UsageError if another process computes the same study: it would do everything twice."""
    from tda_backend.runs.jobs import list_jobs

    frame = list_jobs(workspace)
    busy = frame.loc[(frame["status"] == "running") & (frame["study_id"] == study_id)]
    if len(busy):
        pid = busy["pid"].tolist()[0]
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
        {
            "kind": "job", "study_id": state.study_id, "job_id": state.job_id, "status": status,
            "started": state.started, "finished": state.updated, "steps_computed": computed, "steps_cached": cached,
            "seconds": seconds, "message": state.message,
        },
    )  # fmt: skip
    from tda_backend.runs.executor import take_in

    take_in(workspace)


def _terminate_like_interrupt() -> None:
    """Make SIGTERM (a cancelled job) end a run as Ctrl-C does."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    if os.name == "posix":
        signal.signal(signal.SIGTERM, interrupt)
