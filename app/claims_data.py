"""Cached reads of the papers' claims and of what their figures are drawn from. No widgets here."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pandas as pd
import streamlit as st

from app.services import studies, study, version, workspace
from tda_backend.runs import claim_figures, papers, shipped
from tda_backend.runs.api import Study
from tda_backend.runs.claim_figures import ClaimEvidence, comparisons_of
from tda_backend.runs.claim_rules import PAPERS, SHORT_NAMES

COMPUTED, SHIPPED, NOT_RUN = papers.COMPUTED, papers.SHIPPED, papers.NOT_RUN


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
    return "|".join([version(), str(folder), *stamps])


def claims() -> pd.DataFrame:
    """Return :func:`~tda_backend.runs.papers.paper_claims` with ``key``, what the address calls a claim."""
    return _claims(_state()).copy()


@st.cache_data(max_entries=4, show_spinner=False)
def _claims(state: str) -> pd.DataFrame:
    shipped.shipped_results.cache_clear()  # the files may have been exported anew while this server runs
    frame = papers.paper_claims(workspace())
    return frame.assign(key=frame["study"] + "/" + frame["claim_id"]).reset_index(drop=True)


def facts(study: str, origin: str) -> dict[str, Any]:
    """Return how a study of claims was computed, or would be."""
    return _facts(study, origin, _state())


@st.cache_data(max_entries=64, show_spinner=False)
def _facts(study: str, origin: str, state: str) -> dict[str, Any]:
    return claim_figures.study_facts(study, origin, workspace())


def evidence(key: str) -> ClaimEvidence:
    """Return what a claim's figures are drawn from."""
    return _evidence(key, _state())


@st.cache_resource(max_entries=64, show_spinner=False)
def _evidence(key: str, state: str) -> ClaimEvidence:
    frame = _claims(state)
    return claim_figures.claim_evidence(frame[frame["key"] == key].iloc[0].to_dict(), workspace())


def opened(name: str) -> Study:
    """Return the newest study of the catalogue with a name."""
    frame = studies()
    return study(str(frame.loc[frame["name"] == name, "study_id"].iloc[0]))


def comparisons(claim: dict[str, Any]) -> pd.DataFrame:
    """Return the comparisons behind a verdict.

    Columns: left, left_value, right, right_value, value, low, high, bound, above, sentence; right_value is missing
    where a number stands alone.
    """
    rows = [{**asdict(each), "sentence": each.sentence} for each in comparisons_of(claim)]
    columns = ["left", "left_value", "right", "right_value", "value", "low", "high", "bound", "above", "sentence"]
    return pd.DataFrame(rows, columns=columns)


def points(found: ClaimEvidence) -> pd.DataFrame:
    """Return the points of LDS that a claim compares."""
    return claim_figures.claim_points(found)


def rule_points(found: ClaimEvidence) -> pd.DataFrame:
    """Return the LDS of every rule for λ in a claim's configurations."""
    return claim_figures.rule_points(found)


def removal_shares(found: ClaimEvidence) -> dict[str, pd.DataFrame]:
    """Return curve → size, share of the queries that have not flipped after removing so many examples."""
    return claim_figures.removal_shares(found)
