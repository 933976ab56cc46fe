"""Papers: what the papers state, our figure beside each statement, and whether it holds."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from app import claims_data, session
from app.claim_text import expected_text
from app.claims_data import COMPUTED, NOT_RUN, SHIPPED
from app.components.claim import show_claim
from app.components.errors import shows_errors
from app.components.progress import follow, last_job, start_button
from app.components.tables import show_data
from app.formats import count_text, duration_text, plain, signed
from app.session import control

VERDICTS: dict[str, tuple[str, str]] = {
    "reproduced": ("green", "check_circle"),
    "not reproduced": ("red", "cancel"),
    "inconclusive": ("orange", "help"),
    "not run": ("gray", "schedule"),
}
"""Verdict → (colour, icon) of its badge; the badge always says the verdict too."""
ALL = "all"


@shows_errors
def render() -> None:
    """Draw the page."""
    st.title("Papers", anchor=False)
    st.markdown("What the papers state, our figure beside each statement, and whether it holds. **Open a statement.**")
    frame = claims_data.claims()
    if not len(frame):
        st.info("No study file of this installation tests a claim: the folder data/studies has none.")
        return
    st.markdown(_summary(frame))
    st.caption(
        "Reproduced: the whole 95 % interval of every comparison lies on the side that the paper states; intervals are "
        "over draws of what was retrained: subsets, examples left out, or seeds with test examples. Not reproduced: "
        "the interval of at least one lies on the other side. "
        "Inconclusive: neither; more retraining is needed to tell."
    )
    shown = _filtered(frame)
    if not len(shown):
        st.info("No claim has this verdict in this paper.")
    for paper, title in claims_data.titles().items():
        mine = shown[shown["paper"] == paper]
        if len(mine):
            st.subheader(title, anchor=False)
            for study, claims in mine.groupby("study", sort=False):
                _show_study(str(study), claims)
    show_data(_table(frame), "papers", f"All {count_text(len(frame), 'claim')} as a table")
    follow()


def badge(verdict: str, text: str = "") -> str:
    """Return a verdict as a badge in Markdown: colour, icon and words."""
    color, icon = VERDICTS.get(verdict, ("gray", "help"))
    return f":{color}-badge[:material/{icon}: {text or verdict}]"


def _summary(frame: pd.DataFrame) -> str:
    counts = frame["verdict"].value_counts()
    words = [badge(verdict, f"{counts[verdict]} {verdict}") for verdict in VERDICTS if verdict in counts]
    return f"**{count_text(len(frame), 'claim')}** {' '.join(words)}"


def _filtered(frame: pd.DataFrame) -> pd.DataFrame:
    """Draw the filters; return the claims that pass."""
    view = session.view()
    papers = [name for name in claims_data.titles() if (frame["paper"] == name).any()]
    paper = view.paper if view.paper in papers else ALL
    with st.container(horizontal=True, gap="medium"):
        control(
            st.segmented_control, "Paper", "papers-paper", paper,
            lambda value: session.update(paper="" if value == ALL else value), options=[ALL, *papers],
            format_func=lambda name: "All" if name == ALL else claims_data.short_name(name), required=True,
        )  # fmt: skip
        of_paper = frame if paper == ALL else frame[frame["paper"] == paper]
        counts = of_paper["verdict"].value_counts()
        verdict = view.verdict if view.verdict in VERDICTS else ALL
        control(
            st.segmented_control, "Verdict", "papers-verdict", verdict,
            lambda value: session.update(verdict="" if value == ALL else value), options=[ALL, *VERDICTS],
            format_func=lambda name: f"All ({len(of_paper)})" if name == ALL else f"{name} ({counts.get(name, 0)})",
            required=True, wrap=True,
        )  # fmt: skip
    return of_paper if verdict == ALL else of_paper[of_paper["verdict"] == verdict]


def _show_study(name: str, claims: pd.DataFrame) -> None:
    """Draw one study's claims under a line that says where its figures come from."""
    first = claims.iloc[0]
    facts = claims_data.facts(name, str(first["origin"]))
    with st.container(horizontal=True, vertical_alignment="center"):
        with st.container(gap=None):
            st.markdown(f"**{plain(name)}**")
            st.caption(origin_text(facts))
        if first["origin"] != COMPUTED:
            _offer_run(name, str(first["paper"]))
    for claim in claims.to_dict("records"):
        _show_row(claim, facts)


def _offer_run(name: str, paper: str) -> None:
    job = last_job("", name)
    if job is not None and job["status"] == "running":
        st.caption("Running now; Overview shows how far it is.", width="content")
    else:
        with st.container(width="content"):
            start_button("Run it here", ["run", name], f"run-{paper}-{name}")


def origin_text(facts: dict[str, Any]) -> str:
    """Return where a study's figures come from, with its size."""
    words = [f"task {plain(facts['task'])}", count_text(facts["num_train"], "training example"),
             count_text(facts["num_queries"], "query", "queries"),
             count_text(facts["num_subsets"], "retrained subset") + (
                 f" at each of {len(facts['alphas'])} α" if len(facts["alphas"]) > 1 else "")]  # fmt: skip
    words += [count_text(facts["num_seeds"], "training seed")] if facts["num_seeds"] > 1 else []
    size = " · ".join(words)
    if facts["origin"] == NOT_RUN:
        return f":gray-badge[not run] planned: {size} · `tda run {facts['study']}`"
    made = [f"torch {plain(facts['torch'])} on {plain(facts['device'])}", duration_text(facts["seconds"])]
    if facts["origin"] == SHIPPED:
        made = [f"computed {plain(facts['created'])}", f"code {plain(facts['version'])}", *made]
        return f":violet-badge[shipped result] {size} · {' · '.join(made)}"
    made = [f"computed {plain(facts['created'])}", *made] if facts["created"] else made
    return f":blue-badge[computed here] {size} · {' · '.join(made)}"


def _show_row(claim: dict[str, Any], facts: dict[str, Any]) -> None:
    key = claim["key"]

    def toggled(is_open: bool) -> None:
        others = tuple(name for name in session.view().claims if name != key)
        session.update(claims=(*others, key) if is_open else others)

    label = f"{badge(claim['verdict'])} {plain(claim['statement'])}"
    row = control(st.expander, label, f"claim-{key}", key in session.view().claims, toggled)
    if row.open:
        with row:
            show_claim(claim, facts)


def _table(frame: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "paper": [claims_data.short_name(name) for name in frame["paper"]],
            "place": frame["place"],
            "statement": frame["statement"],
            "verdict": frame["verdict"],
            "our number": [_rounded(value) for value in frame["value"]],
            "95 % low": [_rounded(value) for value in frame["low"]],
            "95 % high": [_rounded(value) for value in frame["high"]],
            "expected": [expected_text(row["check_name"], row["bound"]) for row in frame.to_dict("records")],
            "study": frame["study"],
            "task": frame["task"],
            "subsets": frame["num_subsets"].astype("Int64"),
            "origin": frame["origin"],
            "code": frame["version"],
            "created": frame["created"],
            "numbers": [" | ".join(texts) for texts in frame["numbers"]],
            "note": frame["note"],
        }
    )


def _rounded(value: Any) -> str:
    return "" if value is None or pd.isna(value) else signed(float(value), 3)
