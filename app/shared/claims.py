"""Cached reads of the papers' claims, of what their figures are drawn from, and of where numbers come from."""

from __future__ import annotations

import streamlit as st

from app import services
from tda_backend.interfaces.papers import shipped, verdicts
from tda_backend.interfaces.papers.evidence import ClaimEvidence, claim_evidence
from tda_backend.interfaces.papers.provenance import Provenance, provenance_of
from tda_backend.interfaces.papers.verdicts import COMPUTED, SHIPPED, PaperClaim
from tda_backend.interfaces.reading.study import Study
from tda_backend.studies.contract.claim import NOT_RUN, NOT_TESTED, PAPERS, SHORT_NAMES

__all__ = [
    "COMPUTED",
    "NOT_RUN",
    "NOT_TESTED",
    "SHIPPED",
    "claims",
    "evidence",
    "opened",
    "provenance",
    "short_name",
    "titles",
]


def titles() -> dict[str, str]:
    """Return key → title of the papers, in their order."""
    return dict(PAPERS)


def short_name(paper: str) -> str:
    """Return a paper's name for buttons."""
    return SHORT_NAMES.get(paper, paper)


def _state() -> str:
    """Return a token that changes with the catalogue and with the shipped results."""
    folder = shipped.results_folder()
    stamps = [f"{name}:{(folder / name / 'study.parquet').stat().st_mtime_ns}" for name in shipped.shipped_names()]
    return "|".join([services.version(), str(folder), *stamps])


def claims() -> list[PaperClaim]:
    """Return every claim of the papers, with the best evidence that there is. Shared: do not change the list."""
    return _claims(_state())


@st.cache_resource(max_entries=4, show_spinner=False)
def _claims(state: str) -> list[PaperClaim]:
    shipped.shipped_results.cache_clear()  # the files may have been exported anew while this server runs
    return verdicts.claims_of_papers(services.workspace())


def provenance(study: str, origin: str) -> Provenance:
    """Return how a study of claims was computed, or would be."""
    return _provenance(study, origin, _state())


@st.cache_data(max_entries=64, show_spinner=False)
def _provenance(study: str, origin: str, state: str) -> Provenance:
    return provenance_of(study, origin, services.workspace())


def evidence(claim: PaperClaim) -> ClaimEvidence:
    """Return what a claim's figures are drawn from."""
    return _evidence(claim.key, _state())


@st.cache_resource(max_entries=64, show_spinner=False)
def _evidence(key: str, state: str) -> ClaimEvidence:
    claim = next(claim for claim in _claims(state) if claim.key == key)
    return claim_evidence(claim, services.workspace())


def opened(name: str) -> Study:
    """Return the newest study of the catalogue with a name."""
    return services.study(next(row.study_id for row in services.studies() if row.name == name))
