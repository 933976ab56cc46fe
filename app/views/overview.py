"""Overview: which studies there are, how good they are, how far they are."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app import claims_data, clocks, services, session, trajectory_data
from app.charts import LDS_HELP, comparison_figure, lambda_title
from app.components.errors import shows_errors
from app.components.method_controls import SHORT
from app.components.progress import (
    follow,
    is_running,
    last_job,
    planned_text,
    show_ended_job,
    show_job,
    start_button,
)
from app.components.tables import show_data
from app.formats import (
    MISSING,
    count_text,
    is_missing,
    joined,
    lds_text,
    plain,
    projection_text,
    regularization_text,
    signed,
)
from app.method_style import method_color, method_dash
from app.navigation import open_page
from app.state import View

MAX_CURVES, MAX_NAMES = 6, 4
STATUS = {
    "complete": ":green-badge[complete]",
    "running": ":blue-badge[running]",
    "failed": ":red-badge[failed]",
    "partial": ":orange-badge[unfinished]",
}


@shows_errors
def render() -> None:
    """Draw the page."""
    st.title("Which training examples made the model answer like this?")
    st.markdown(
        "A study trains a model, attributes its answers to training examples by several methods, and measures by "
        "retraining on random subsets how far each attribution can be trusted (LDS)."
    )
    if is_running():
        clocks.every(1.5, _show_studies)(True, _num_usable(services.studies()))
    else:
        _show_studies(False, 0)
        follow()  # a run may begin elsewhere: in a terminal, or as the child of `tda demo`


def _num_usable(frame: pd.DataFrame) -> int:
    """Return how many studies have something to look at."""
    return int((frame["num_configurations"] > 0).sum()) if len(frame) else 0


@shows_errors
def _show_studies(was_running: bool, num_usable: int) -> None:
    frame = services.studies()
    if was_running and (not is_running() or _num_usable(frame) != num_usable):
        st.rerun()  # the whole page, side bar included: the run has ended, or there is something to look at now
    jobs = services.running_jobs()
    known = set(frame["study_id"]) if len(frame) else set()
    for _, job in jobs[(jobs["status"] == "running") & ~jobs["study_id"].isin(known)].iterrows():
        with st.container(border=True):
            st.subheader(plain(job["study"] or "Study"), anchor=False)
            show_job(job)
    if not len(frame):
        _show_empty(jobs)
        return
    for number, (_, row) in enumerate(frame.iterrows()):
        if number >= 8:
            break
        _show_study(row, first=number == 0)
    if len(frame):
        show_data(_table(frame), "studies", f"All studies as a table ({len(frame)})")


def _show_empty(jobs: pd.DataFrame) -> None:
    if len(jobs) and jobs["status"].iloc[0] == "running":
        st.info("The study appears here as soon as its first step is done.")
        return
    with st.container(border=True):
        st.subheader("No study yet", anchor=False)
        if len(jobs) and jobs["status"].iloc[0] != "done":
            show_ended_job(jobs.iloc[0])
        st.markdown(
            "The embedded study `mnist-mlp` attributes a small network's answers on real MNIST digits: 5 000 training "
            "images, 50 retrained subsets, several methods. It takes a few minutes on two cores; first curves appear "
            "within about a minute and a half. The quick version, 600 images, takes under a minute."
        )
        with st.container(horizontal=True):
            start_button("Run the first study", ["run", services.DEMO_STUDY], "start-demo", primary=True)
            start_button("Run the quick version", ["run", services.DEMO_STUDY, "--quick"], "start-quick")
        st.caption("The same from a terminal, and your own model instead:")
        st.code("tda run mnist-mlp\ntda run --task my_task.py:factory", language="bash")
    _show_shipped()


def _show_shipped() -> None:
    """Point to the results that travel with the project: the only figures there are before anything is computed."""
    counts = claims_data.claims()["verdict"].value_counts()
    known = int(counts.sum()) - int(counts.get(claims_data.NOT_RUN, 0))
    with st.container(border=True):
        st.subheader("What the papers state, and what we found", anchor=False)
        if known:
            words = [f"{count} {verdict}" for verdict, count in counts.items() if verdict != claims_data.NOT_RUN]
            st.markdown(
                f"Results of {count_text(known, 'claim')} of the papers travel with this installation "
                f"({joined(words)}): curves, intervals and verdicts, to look at before anything is computed here."
            )
        else:
            st.markdown("Every claim of the papers that can be tested here, with the study that tests it.")
        if st.button("Open the papers' claims", key="open-papers"):
            open_page("papers")


def _show_study(row: pd.Series, first: bool) -> None:
    study_id, name = str(row["study_id"]), str(row["name"])
    with st.container(border=True):
        head, actions = st.columns([3, 2], vertical_alignment="center")
        head.subheader(f"{plain(name)} {STATUS.get(row['status'], '')}", anchor=False)
        head.caption(f"task {plain(row['task'])} · {planned_text(row)}")
        with actions, st.container(horizontal=True, horizontal_alignment="right"):
            if row["num_configurations"] and st.button(
                "Open the Explorer", key=f"open-{study_id}", type="primary" if first else "secondary"
            ):
                current = session.view()
                session.write(current if current.study == name else View(study=name))
                open_page("explorer")
            unrolls = trajectory_data.asks_for_runs(services.study(study_id).config)
            if unrolls and st.button("Open Training trajectory", key=f"trajectory-{study_id}"):
                session.write(View(study=name))
                open_page("trajectory")
            if row["status"] in ("failed", "partial"):
                start_button("Resume", services.resume_arguments(study_id), f"resume-{study_id}")
        job = last_job(study_id, name)
        if row["status"] == "running" and job is not None:
            show_job(job)
        elif row["status"] != "complete" and job is not None and job["status"] in ("failed", "stale", "cancelled"):
            show_ended_job(job)
            st.progress(float(row["progress"]), text=f"{row['steps_done']} of {row['steps_total']} steps are kept")
        elif row["status"] == "partial":
            st.progress(float(row["progress"]), text=f"{row['steps_done']} of {row['steps_total']} steps done")
        _show_metrics(row, study_id)
        if first and row["num_configurations"]:
            _show_curves(study_id)


def _show_metrics(row: pd.Series, study_id: str) -> None:
    names = _methods(study_id) if row["num_configurations"] else []
    num_methods = services.study(study_id).configurations()["method"].nunique() if names else 0
    low, high = row["best_lds_low"], row["best_lds_high"]
    band = "comes with the retrained subsets" if is_missing(low) else f"95 %: {signed(low, 3)} to {signed(high, 3)}"
    entries = [
        ("Best LDS", MISSING if is_missing(row["best_lds"]) else signed(row["best_lds"], 3), band),
        ("λ* there", regularization_text(row["lambda_selected"]), f"LDS at λ*: {lds_text(row['lds_selected'])}"),
        ("Methods", str(num_methods or MISSING), ", ".join(plain(name) for name in names) or MISSING),
    ]
    with st.container(horizontal=True, gap="large"):
        for title, value, detail in entries:
            with st.container(width="content", gap=None):
                st.metric(title, value)
                st.caption(detail)
    if not is_missing(row["best_method"]):
        st.caption(f"The best LDS is reached by {plain(row['best_method'])}, at the best λ of the grid.")


def _show_curves(study_id: str) -> None:
    """Draw LDS(λ) of each method's best configuration: the first true thing to see of a study."""
    opened = services.study(study_id)
    known = services.configurations(opened)
    known = known[known["has_regularization"] & known["best_lds"].notna()]
    if not len(known):
        st.info("The first LDS(λ) curve appears here once some subsets have been retrained.")
        return
    best = known.loc[known.groupby("method", sort=False)["best_lds"].idxmax()]
    num_methods = len(best)
    best = best.nlargest(MAX_CURVES, "best_lds") if num_methods > MAX_CURVES else best
    curves, frames = [], []
    for record in best.to_dict("records"):
        curve = opened.curve(record["configuration_id"])
        k = projection_text(record["projection_dim"])
        relative = ", λ relative to layers" if record["settings"].get("damping") == "relative" else ""
        name = f"{record['variant_title']}{relative}, epoch {record['training_epoch']}, {k}"
        curves.append((name, method_color(record["method"]), method_dash(record["method"]), curve))
        frames.append(curve.drop(columns=["is_selected"]).assign(configuration=name))
    title = lambda_title([row.get("damping") for row in best["settings"]])
    st.plotly_chart(
        comparison_figure(curves, title), width="stretch", config={"displaylogo": False}, key=f"curves-{study_id}",
        alt="LDS against λ of each method's best configuration, with 95 % bands",
    )  # fmt: skip
    frame = pd.concat(frames)
    num, planned = int(frame["num_subsets"].max()), int(opened.info["num_subsets"])
    count = f"So far {num} of {planned} subsets." if num < planned else f"{num} retrained subsets."
    few = f"The {len(best)} best of {num_methods} methods with λ. " if num_methods > len(best) else ""
    st.caption(f"{few}{LDS_HELP} {count} The peak is where λ should be; how wide it is says how much that matters.")
    show_data(frame.rename(columns={"regularization": "λ", "mean": "LDS"}), f"curves-{study_id}")


def _methods(study_id: str) -> list[str]:
    names = services.configurations(services.study(study_id))["method_title"]
    titles = [SHORT.get(name, name) for name in dict.fromkeys(names)]
    return [*titles[:MAX_NAMES], f"{len(titles) - MAX_NAMES} more"] if len(titles) > MAX_NAMES + 1 else titles


def _table(frame: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "study": frame["name"],
            "task": frame["task"],
            "status": frame["status"],
            "steps": [f"{d} of {t}" for d, t in zip(frame["steps_done"], frame["steps_total"], strict=True)],
            "configurations": frame["num_configurations"],
            "best LDS": frame["best_lds"].round(3),
            "95 % low": frame["best_lds_low"].round(3),
            "95 % high": frame["best_lds_high"].round(3),
            "reached by": frame["best_method"],
            "λ*": [regularization_text(value) for value in frame["lambda_selected"]],
            "LDS at λ*": frame["lds_selected"].round(3),
            "created": frame["created"].astype("datetime64[s]") if len(frame) else [],
        }
    )
