"""Papers: what the papers state, our figure beside each statement, and whether it holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import pandas as pd
import streamlit as st

from app import services, session
from app.formats import count_text, duration_text, plain, signed
from app.session import control
from app.shared import claims as claims_data
from app.shared.claims import COMPUTED, NOT_RUN, NOT_TESTED, SHIPPED
from app.shared.errors import shows_errors
from app.shared.progress import follow, last_job, start_button
from app.shared.tables import show_data
from app.views.papers.claim import show_claim
from app.views.papers.claim_text import expected_text
from tda_backend.errors import command
from tda_backend.interfaces.papers.provenance import Provenance
from tda_backend.interfaces.papers.verdicts import PaperClaim
from tda_backend.interfaces.reading.records.grouping import grouped


@dataclass(frozen=True)
class Badge:
    """Colour and icon of a badge; it always says its word too."""

    color: str
    icon: str


VERDICTS = {
    "reproduced": Badge("green", "check_circle"),
    "not reproduced": Badge("red", "cancel"),
    "inconclusive": Badge("orange", "help"),
    NOT_TESTED: Badge("blue", "rule"),
    NOT_RUN: Badge("gray", "schedule"),
}
ALL = "all"


@shows_errors
def render() -> None:
    """Draw the page."""
    st.title("Papers", anchor=False)
    st.markdown("What the papers state, our figure beside each statement, and whether it holds. **Open a statement.**")
    claims = claims_data.claims()
    if not claims:
        st.info("No study file of this installation tests a claim: the folder data/studies has none.")
        return
    st.markdown(_summary(claims))
    st.caption(
        "Reproduced: the whole 95 % interval of every comparison lies on the side that the paper states; intervals are "
        "over draws of what was retrained: subsets, examples left out, or seeds with test examples. Not reproduced: "
        "the interval of at least one lies on the other side. "
        "Inconclusive: neither; more retraining is needed to tell. Not tested as stated: our figure compares something "
        "else than the paper's statement is about; the statement, opened, says what."
    )
    shown = _filtered(claims)
    if not shown:
        st.info("No claim has this verdict in this paper.")
    by_paper = grouped(shown, lambda claim: claim.paper)
    for paper, title in claims_data.titles().items():
        if paper in by_paper:
            st.subheader(title, anchor=False)
            for study, mine in sorted(grouped(by_paper[paper], lambda claim: claim.study).items()):
                _show_study(study, mine)
    show_data(_table(claims), "papers", f"All {count_text(len(claims), 'claim')} as a table")
    follow()


def badge(verdict: str, text: str = "") -> str:
    """Return a verdict as a badge in Markdown: colour, icon and words."""
    look = VERDICTS.get(verdict, Badge("gray", "help"))
    return f":{look.color}-badge[:material/{look.icon}: {text or verdict}]"


def _counts(claims: Sequence[PaperClaim]) -> Counter[str]:
    return Counter(claim.verdict for claim in claims)


def _summary(claims: Sequence[PaperClaim]) -> str:
    counts = _counts(claims)
    words = [badge(verdict, f"{counts[verdict]} {verdict}") for verdict in VERDICTS if verdict in counts]
    return f"**{count_text(len(claims), 'claim')}** {' '.join(words)}"


def _filtered(claims: Sequence[PaperClaim]) -> list[PaperClaim]:
    """Draw the filters; return the claims that pass."""
    view = session.view()
    present = {claim.paper for claim in claims}
    papers = [name for name in claims_data.titles() if name in present]
    paper = view.paper if view.paper in papers else ALL
    verdict = view.verdict if view.verdict in VERDICTS else ALL
    of_paper = [claim for claim in claims if paper in (ALL, claim.paper)]
    counts = _counts(of_paper)
    with st.container(horizontal=True, gap="medium"):
        control(
            st.segmented_control,
            "Paper",
            "papers-paper",
            paper,
            lambda value: session.update(paper="" if value == ALL else value),
            options=[ALL, *papers],
            format_func=lambda name: "All" if name == ALL else claims_data.short_name(name),
            required=True,
        )
        control(
            st.segmented_control,
            "Verdict",
            "papers-verdict",
            verdict,
            lambda value: session.update(verdict="" if value == ALL else value),
            options=[ALL, *VERDICTS],
            format_func=lambda name: f"All ({len(of_paper)})" if name == ALL else f"{name} ({counts[name]})",
            required=True,
            wrap=True,
        )
    return [claim for claim in of_paper if verdict in (ALL, claim.verdict)]


def _show_study(name: str, claims: Sequence[PaperClaim]) -> None:
    """Draw one study's claims under a line that says where its figures come from."""
    first = claims[0]
    with st.container(horizontal=True, vertical_alignment="center"):
        with st.container(gap=None):
            st.markdown(f"**{plain(name)}**")
            st.caption(origin_text(claims_data.provenance(name, first.origin)))
        if first.origin != COMPUTED:
            _offer_run(name, first.paper)
    for claim in claims:
        _show_row(claim)


def _offer_run(name: str, paper: str) -> None:
    job = last_job("", name)
    if job is not None and job.is_running:
        st.caption("Running now; Overview shows how far it is.", width="content")
    else:
        with st.container(width="content"):
            start_button("Run it here", partial(services.start_embedded, name), f"run-{paper}-{name}")


def origin_text(known: Provenance) -> str:
    """Return where a study's figures come from, with its size."""
    several = f" at each of {len(known.alphas)} α" if len(known.alphas) > 1 else ""
    words = [
        f"task {plain(known.task)}",
        count_text(known.num_train, "training example"),
        count_text(known.num_queries, "query", "queries"),
        count_text(known.num_subsets, "retrained subset") + several,
    ]
    words += [count_text(known.num_seeds, "training seed")] if known.num_seeds > 1 else []
    size = " · ".join(words)
    if not known.is_run:
        return f":gray-badge[not run] planned: {size} · `{command('run', known.study)}`"
    made = [f"torch {plain(known.torch)} on {plain(known.device)}", duration_text(known.seconds)]
    if known.origin == SHIPPED:
        made = [f"computed {plain(known.created)}", f"code {plain(known.version)}", *made]
        return f":violet-badge[shipped result] {size} · {' · '.join(made)}"
    made = [f"computed {plain(known.created)}", *made] if known.created else made
    return f":blue-badge[computed here] {size} · {' · '.join(made)}"


def _show_row(claim: PaperClaim) -> None:
    key = claim.key

    def toggled(is_open: bool) -> None:
        others = tuple(name for name in session.view().claims if name != key)
        session.update(claims=(*others, key) if is_open else others)

    label = f"{badge(claim.verdict)} {plain(claim.statement)}"
    row = control(st.expander, label, f"claim-{key}", key in session.view().claims, toggled)
    if row.open:
        with row:
            show_claim(claim)


def _table(claims: Sequence[PaperClaim]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "paper": [claims_data.short_name(claim.paper) for claim in claims],
            "place": [claim.place for claim in claims],
            "statement": [claim.statement for claim in claims],
            "verdict": [claim.verdict for claim in claims],
            "our number": [_rounded(claim, claim.value) for claim in claims],
            "95 % low": [_rounded(claim, claim.low) for claim in claims],
            "95 % high": [_rounded(claim, claim.high) for claim in claims],
            "expected": [expected_text(claim) for claim in claims],
            "study": [claim.study for claim in claims],
            "task": [claim.task for claim in claims],
            "subsets": pd.array([claim.num_subsets for claim in claims], "Int64"),
            "origin": [claim.origin for claim in claims],
            "code": [claim.version for claim in claims],
            "created": [claim.created for claim in claims],
            "numbers": [" | ".join(claim.numbers) for claim in claims],
            "note": [claim.note for claim in claims],
        }
    )


def _rounded(claim: PaperClaim, value: float | None) -> str:
    """Return a number of the table; empty where it is no number about the paper's statement."""
    return "" if value is None or claim.verdict == NOT_TESTED else signed(value, 3)
