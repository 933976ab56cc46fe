"""The form for a new study, made from the table of methods: fields, study file, estimated cost, a Run button."""

from __future__ import annotations

from typing import Any

import streamlit as st

from app import clocks, services, session
from app.formats import count_text, duration_text, joined, plain
from app.session import Context
from app.settings import label
from app.shared.errors import show_error
from app.shared.progress import show_ended_job, show_job
from app.state import View
from app.views.methods.study_text import StudyForm, grid_text, to_toml
from tda_backend.errors import TDAError
from tda_backend.studies.config.hyperparameter import Hyperparameter
from tda_backend.studies.config.values import as_name
from tda_backend.studies.jobs.progress import JobState
from tda_backend.studies.methods import Method
from tda_backend.studies.runs.drafts import Draft

COUNTS = {
    "train": ("Training examples", "How many of the task's training set"),
    "validation": ("Validation points", "For ξ; apart from the queries"),
    "queries": ("Queries", "For LDS and for looking at"),
}
UNTIL_HELP = (
    "retraining stops once the half-width of every LDS's 95 % interval is no more than this, at λ* where there is λ"
)
WRITTEN = ("flag", "choice")
_JOB, _STARTED, _LOADED = "form-job", "form-started-from", "form-loaded"


def show_study_form(context: Context | None) -> None:
    """Draw the form and what comes of it."""
    st.subheader("New study", anchor=False)
    fields, result = st.columns([3, 2], gap="large")
    with fields:
        form, small = _fields(context)
    text = to_toml(form, services.methods())
    with result:
        _show_result(form, text, small)


def _fields(context: Context | None) -> tuple[StudyForm, bool]:
    left, right = st.columns(2)
    task = _task_box(context, left)
    _start_from(task)
    name = right.text_input("Name", "my-study", key="form-name", help="A new study of the same name replaces the old")
    counts = {}
    for column, (key, (title, meaning)) in zip(st.columns(len(COUNTS)), COUNTS.items(), strict=True):
        counts[key] = column.text_input(title, key=f"form-{key}", help=meaning)
    columns = st.columns(5)
    epochs = columns[0].text_input("Epochs kept", key="form-epochs", help="Where features are taken")
    seeds = columns[1].text_input("Training seeds", "1", key="form-seeds", help="2 or more give intervals of ranks")
    subsets = columns[2].text_input(
        "Retrained subsets", "50", key="form-subsets", help="For LDS; 0: no retraining. With a width beside: at most"
    )
    until = columns[3].text_input(
        "Until LDS ±", key="form-until", help=f"e.g. 0.01: {UNTIL_HELP}", placeholder="all of them"
    )
    alphas = columns[4].text_input("Share in each, α", "0.5", key="form-alphas")
    methods = _methods_box()
    small = st.toggle(
        "Quick version", key="form-quick", help="The same methods on 600 training examples, two epochs and 12 subsets"
    )
    return StudyForm(
        as_name(name.strip()), services.absolute_task(task), counts, epochs, seeds, subsets, alphas, until, methods
    ), small


def _task_box(context: Context | None, place: Any) -> str:
    """Draw the choice of the task."""
    tasks = services.tasks()
    present = services.task_of(context.opened) if context is not None else tasks[0]
    return str(
        place.selectbox(
            "Task",
            tasks,
            index=tasks.index(present) if present in tasks else 0,
            key="form-task",
            accept_new_options=services.allows_task_files(),
            help="A built-in one, one of a study here, or, on a server started with --allow-task-files, your own: "
            "path/to/file.py:factory or package.module:factory",
        )
    )


def _methods_box() -> dict[str, dict[str, str]]:
    """Draw the choice of methods and the hyper-parameters of each."""
    table = services.methods()
    chosen = st.multiselect(
        "Methods",
        list(table),
        [name for name, spec in table.items() if spec.is_usual],
        key="form-methods",
        format_func=lambda key: table[key].title,
    )
    return {key: _method_fields(table[key]) for key in table if key in chosen}


def _start_from(task: str) -> None:
    """Fill in sizes that the task has, when another task has been chosen."""
    if st.session_state.get(_STARTED) == task and "form-train" in st.session_state:
        return
    st.session_state[_STARTED] = task
    for key, text in vars(services.usual_sizes(task)).items():
        st.session_state[f"form-{key}"] = text


def _method_fields(spec: Method) -> dict[str, str]:
    """Draw one method's hyper-parameters; return them as typed, those left empty too."""
    with st.expander(spec.title):
        st.code(spec.formula, language=None, wrap_lines=True)
        st.caption(f"Cost: {plain(spec.cost)}. Source: {plain(spec.reference)}.")
        if not spec.hyperparameters:
            st.caption("Nothing to choose.")
            return {}
        if any(_grid(item) for item in spec.hyperparameters):
            st.button(
                "The papers' grid",
                key=f"form-grid-{spec.name}",
                on_click=_take_grid,
                args=(spec,),
                help="Fills in what the papers sweep; each combination is a configuration",
            )
        return {item.name: _field(spec, item) for item in spec.hyperparameters}


def _grid(item: Hyperparameter) -> tuple[Any, ...]:
    """Return what the papers sweep, where it is more than the default; epochs depend on the training run."""
    several = item.sweep and item.kind != "epochs" and len(item.grid) > 1
    return tuple(item.grid) if several else ()


def _key(spec: Method, item: Hyperparameter) -> str:
    return f"form-{spec.name}-{item.name}"


def _take_grid(spec: Method) -> None:
    for item in spec.hyperparameters:
        values = _grid(item)
        if values:
            texts = [grid_text(value) for value in values]
            st.session_state[_key(spec, item)] = texts if item.kind in WRITTEN else ", ".join(texts)


def _field(spec: Method, item: Hyperparameter) -> str:
    start = "" if item.default is None else grid_text(item.default)
    key, title = _key(spec, item), label(item.name)
    meaning = f"{item.meaning}. Allowed: {item.range}."
    if item.kind in WRITTEN:
        options = list(item.choices) or ["true", "false"]
        if not item.sweep:
            return str(st.selectbox(title, options, index=options.index(start), key=key, help=meaning))
        if key not in st.session_state:
            st.session_state[key] = start.split(", ")
        return ", ".join(st.multiselect(title, options, key=key, help=meaning))
    if key not in st.session_state:
        st.session_state[key] = start
    empty = "the epochs kept above" if item.kind == "epochs" else "the default"
    return st.text_input(title, key=key, help=meaning, placeholder=empty)


def _show_result(form: StudyForm, text: str, small: bool) -> None:
    st.code(text, language="toml", height=380)
    left, right = st.columns(2)
    left.download_button(
        "Download study file",
        text.encode(),
        f"{form.name}.toml",
        "application/toml",
        key="form-download",
        width="stretch",
    )
    draft = _draft(form.task, text, small)
    if draft is not None:
        slowest = [name for name, _ in draft.slowest[:2]]
        about = "at most" if draft.may_stop else "roughly"
        st.caption(
            f"**{count_text(draft.num_configurations, 'configuration')}** in {count_text(draft.num_steps, 'step')}; "
            f"{about} **{duration_text(draft.seconds)}** on this machine, most of it in {joined(slowest)}. Steps that "
            "another study has computed already are not computed again."
        )
    if services.read_only():
        st.caption("This server is read-only: copy the file and run it with `tda run`.")
        return
    with right:
        pressed = st.button("Run this study", key="form-run", type="primary", disabled=draft is None, width="stretch")
    if pressed:
        st.session_state[_JOB] = services.start_study(text, small)
        st.rerun()
    _show_started()


def _draft(task: str, text: str, small: bool) -> Draft | None:
    """Return what running the file would do; nothing of a task's own code is loaded before a click on it."""
    try:
        count = services.count_configurations(text)
    except TDAError as error:
        show_error(error)
        return None
    if not services.may_load(task):
        if not services.read_only():
            st.caption(
                f"The task {plain(task)} is code, and this server runs none but its own: copy the file and run it with "
                "`tda run`, or start the server with `--allow-task-files`."
            )
        return None
    if not services.is_built_in(task) and task not in st.session_state.setdefault(_LOADED, set()):
        st.caption(
            f"**{count_text(count, 'configuration')}**. What they cost is known once the code of {plain(task)} has "
            "been run, with the server's rights."
        )
        if not st.button("Load this task", key="form-load"):
            return None
        st.session_state[_LOADED].add(task)
    try:
        return services.draft(text, small)
    except TDAError as error:
        show_error(error)
        return None


def _show_started() -> None:
    """Draw the job that this form has started."""
    job = _job(st.session_state.get(_JOB))
    if job is None:
        return
    if job.is_running:
        clocks.every(1.5, _follow_job)(job.job_id)
    elif job.status == "done":
        st.success("The study is computed.", icon=":material/check:")
        if st.button("Look at it in the Explorer", key="form-look"):
            session.leave("explorer", View(study=str(job.study)))
    else:
        show_ended_job(job)


def _job(identity: str | None) -> JobState | None:
    return next((job for job in services.running_jobs() if job.job_id == identity), None)


def _follow_job(identity: str) -> None:
    job = _job(identity)
    if job is None or not job.is_running:
        st.rerun()
    else:
        show_job(job)
