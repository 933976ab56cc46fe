"""The results that travel with the project: the only figures there are before anything is computed here."""

from __future__ import annotations

from collections import Counter

import streamlit as st

from app import services
from app.formats import count_text, joined
from app.navigation import open_page
from tda_backend.interfaces.papers.shipped import results_folder, shipped_names
from tda_backend.interfaces.papers.verdicts import claims_of_papers
from tda_backend.studies.contract.claim import NOT_RUN, NOT_TESTED


@st.cache_data(max_entries=4, show_spinner=False)
def _verdicts(version: str, shipped: str) -> dict[str, int]:
    counts = Counter(claim.verdict for claim in claims_of_papers(services.workspace()))
    return dict(counts.most_common())


def show_shipped() -> None:
    """Say what is known of the papers' claims, and lead to them."""
    counts = _verdicts(services.version(), f"{results_folder()}:{','.join(shipped_names())}")
    known = sum(count for verdict, count in counts.items() if verdict not in (NOT_RUN, NOT_TESTED))
    with st.container(border=True):
        st.subheader("What the papers state, and what we found", anchor=False)
        if known:
            words = [f"{n} {verdict}" for verdict, n in counts.items() if verdict not in (NOT_RUN, NOT_TESTED)]
            withdrawn = counts.get(NOT_TESTED, 0)
            more = f" {count_text(withdrawn, 'more claim')}: not tested as stated." if withdrawn else ""
            st.markdown(
                f"Results of {count_text(known, 'claim')} of the papers travel with this installation "
                f"({joined(words)}): curves, intervals and verdicts, to look at before anything is computed here.{more}"
            )
        else:
            st.markdown("Every claim of the papers that can be tested here, with the study that tests it.")
        if st.button("Open the papers' claims", key="open-papers"):
            open_page("papers")
