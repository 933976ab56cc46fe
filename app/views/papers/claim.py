"""One claim of a paper, opened: our figure, every number behind the verdict, and the way to the configuration."""

from __future__ import annotations

import math
from dataclasses import replace

import streamlit as st

from app import services, session
from app.formats import plain, projection_text, regularization_text
from app.shared import claims
from app.shared.claims import COMPUTED, NOT_RUN, NOT_TESTED
from app.shared.intervals import NamedInterval, bounded_figure
from app.shared.plots import ZOOMABLE, show_figure
from app.state import View, at_configuration
from app.views.papers.claim_text import check_text, number, short_labels
from app.views.papers.figure import show_claim_figure
from tda_backend.errors import command
from tda_backend.interfaces.papers.evidence import ClaimEvidence, comparisons_of
from tda_backend.interfaces.papers.figures import ClaimFigure, claim_points, figure_of
from tda_backend.interfaces.papers.verdicts import PaperClaim
from tda_backend.studies.contract.claim import FigureKind

PAGES = {"explorer": "Explorer", "selection": "λ selection", "sensitivity": "Sensitivity"}
NEED_REGULARIZATION = frozenset({"selection"})
"""Pages that show nothing of a configuration without λ."""


def show_claim(claim: PaperClaim) -> None:
    """Draw an open claim."""
    paper = claims.titles().get(claim.paper, claim.paper)
    st.caption(f"{plain(paper)}, {plain(claim.place)}. Checked: {plain(check_text(claim))}.")
    if claim.verdict == NOT_TESTED:
        st.warning(f"**Not tested as stated.** {plain(claim.note)}", icon=":material/rule:")
    elif claim.note:
        st.markdown(f"**Note.** {plain(claim.note)}")
    if claim.origin == NOT_RUN:
        st.info("No figure yet: this study was not run here, and no result of it is shipped.")
        st.code(f"{command('run', claim.study)}", language="bash")
        return
    shown = figure_of(claim)
    if shown.kind is FigureKind.TRAINING_RUN:
        _show_numbers(claim, shown)
        _link_trajectory(claim)
        return
    found = claims.evidence(claim)
    left, right = st.columns([3, 2], gap="large")
    with left:
        show_claim_figure(claim, shown.kind, found)
    with right:
        _show_numbers(claim, shown)
    if claim.origin == COMPUTED:
        _show_links(claim, found)
    else:
        st.caption("To open its configurations on the other pages, compute it here:")
        st.code(f"{command('run', claim.study)}", language="bash")


def _show_numbers(claim: PaperClaim, shown: ClaimFigure) -> None:
    """Draw what the verdict rests on: every comparison against its bound, and the sentences."""
    comparisons = comparisons_of(claim)
    known = [row for row in comparisons if not math.isnan(row.value)]
    if claim.verdict == NOT_TESTED:
        st.markdown("**What was measured instead.** It says nothing about the paper's statement.")
    else:
        st.markdown(f"**What the verdict rests on** ({plain(claim.verdict)})")
    if known:
        names = short_labels(row.right for row in known if row.right)
        rows = [
            NamedInterval(f"against {names[row.right]}" if row.right else row.left, row.value, row.low, row.high)
            for row in known
        ]
        bound, above = known[0].bound, known[0].above
        show_figure(
            bounded_figure(rows, bound, above, shown.axis),
            f"numbers-{claim.key}",
            "; ".join(f"{row.name}: {row.value:.3f} ({row.low:.3f} to {row.high:.3f})" for row in rows),
            config=ZOOMABLE,
        )
        side = "right of" if above else "left of"
        if claim.verdict != NOT_TESTED:
            st.caption(f"Each must lie, with its whole 95 % interval, {side} {number(bound)}.")
    st.caption("\n".join(f"- {plain(row.sentence)}" for row in comparisons))


def _link_trajectory(claim: PaperClaim) -> None:
    """Draw the way to the page that shows what such a claim compares."""
    if st.button("See it on Training trajectory", key=f"trajectory-{claim.key}"):
        here = session.view()
        there = {"study": claim.study} if claim.origin == COMPUTED else {"results": (claim.study,)}
        session.leave("trajectory", replace(here, **there))


def _show_links(claim: PaperClaim, found: ClaimEvidence) -> None:
    """Draw the way to one of the claim's configurations on the other pages."""
    known = services.configurations(claims.opened(claim.study))
    there = [identity for identity in claim.configuration_ids if identity in known.ids]
    if not there:
        return
    with st.container(horizontal=True, vertical_alignment="bottom"):
        chosen = st.selectbox(
            "Look at a configuration",
            there,
            key=f"look-{claim.key}",
            width=420,
            format_func=lambda identity: known.by_id(identity).label,
        )
        row = known.by_id(chosen)
        mine = [point.regularization for point in claim_points(found) if point.configuration_id == chosen]
        lam = next((value for value in mine if value is not None), None)
        for page, title in PAGES.items():
            if page in NEED_REGULARIZATION and not row.has_regularization:
                continue
            if st.button(title, key=f"{page}-{claim.key}"):
                here = session.view()
                there_too = View(study=claim.study, lam=lam, claims=here.claims, paper=here.paper, verdict=here.verdict)
                session.leave(page, at_configuration(there_too, row))
    at = "" if lam is None else f", λ = {regularization_text(lam)}"
    st.caption(
        f"Opens study {plain(claim.study)}: {plain(row.variant_title)}, epoch {row.training_epoch}, "
        f"{projection_text(row.projection_dim)}{at}."
    )
