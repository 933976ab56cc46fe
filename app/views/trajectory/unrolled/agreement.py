"""Does it matter which optimizer is assumed? Agreement of predicted with true effects, and what matching brings."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from app import session
from app.formats import count_text, is_missing, lds_text, plain, signed
from app.session import control
from app.shared.plots import show_figure
from app.shared.tables import show_data
from app.state import TRUTHS
from app.views.trajectory.charts import rate_text
from app.views.trajectory.results import Results
from app.views.trajectory.unrolled.agreement_chart import CURVATURES, agreement_figure, assumed_text
from tda_backend.interfaces.reading.records.frames import frame_of
from tda_backend.interfaces.reading.records.grouping import grouped
from tda_backend.interfaces.reading.records.trajectory import RunAgreement, RunGain

TRUTH_HELP = (
    "What the truth is: the same run, same start and same batches, with the example's weight set to 0. Fixed: the "
    "batch's mean still divides by its full size. Smaller: it divides by one less, as if the example had never been in "
    "the batch."
)


def show_agreement(results: Results, optimizer: str) -> None:
    """Draw the section.

    Args:
        results: Of the study.
        optimizer: As trained, in a word.
    """
    truth = session.view().truth
    control(
        st.segmented_control,
        "Batch without the example",
        "trajectory-truth",
        truth,
        lambda value: session.update(truth=value),
        options=list(TRUTHS),
        required=True,
        help=TRUTH_HELP,
    )
    all_gains = results.read(RunGain)
    rows = [row for row in results.read(RunAgreement) if row.variant == truth]
    gains = [row for row in all_gains if row.variant == truth]
    for sentence in gain_sentences(gains, optimizer, _first_curvature(results, gains)):
        st.markdown(f"- {sentence}")
    if not rows:
        st.info("There are no correlations with this truth yet.")
        return
    _show_figure(rows, optimizer)
    show_data(_table(rows, optimizer), "trajectory-agreement")
    if all_gains:
        show_data(_gains_table(all_gains), "trajectory-gains", "Gains in pairs, table and CSV")


def _show_figure(rows: Sequence[RunAgreement], optimizer: str) -> None:
    words = [
        f"{assumed_text(row, optimizer)}, {row.curvature}, η = {rate_text(row.learning_rate)}: {signed(row.mean, 2)}"
        for row in rows
        if row.seed_index is None
    ]
    show_figure(
        agreement_figure(rows, optimizer),
        "trajectory-agreement",
        "Rank correlation of predicted with true effects against learning rate. " + "; ".join(words),
    )
    num = count_text(max(row.num_removed for row in rows), "training example")
    queries = count_text(max(row.num_queries for row in rows), "query", "queries")
    undefined = max(row.num_undefined for row in rows)
    left_out = f" {count_text(undefined, 'query', 'queries')} without any effect left out." if undefined else ""
    st.caption(
        f"Spearman's correlation, over {num} removed one at a time, of predicted with true change of a query's loss; "
        f"mean over {queries}.{left_out} Bars: 95 % bootstrap over the removed examples. Small marks: single seeds."
    )


def _table(rows: Sequence[RunAgreement], optimizer: str) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "η": [rate_text(row.learning_rate) for row in rows],
            "seed": [_seed_text(row.seed_index) for row in rows],
            "assumed": [assumed_text(row, optimizer) for row in rows],
            "curvature": [CURVATURES[row.curvature].title for row in rows],
            "correlation": [round(row.mean, 4) for row in rows],
            "95 % low": [round(row.ci_low, 4) for row in rows],
            "95 % high": [round(row.ci_high, 4) for row in rows],
            "removed": [row.num_removed for row in rows],
            "queries": [row.num_queries for row in rows],
        }
    )


def _seed_text(seed_index: int | None) -> str:
    return "mean" if seed_index is None else str(seed_index)


def _gains_table(gains: Sequence[RunGain]) -> pd.DataFrame:
    table = frame_of(gains, RunGain).drop(columns=["learning_rate", "seed_index"]).round(4)
    table.insert(0, "seed", [_seed_text(row.seed_index) for row in gains])
    table.insert(0, "η", [rate_text(row.learning_rate) for row in gains])
    return table


def _first_curvature(results: Results, gains: Sequence[RunGain]) -> str | None:
    """Return the first curvature that the study file names and that has gains: the one of the sentences."""
    known = list(dict.fromkeys(row.curvature for row in gains))
    asked = [name for name in results.config.get("trajectory", {}).get("curvatures", []) if name in known]
    return next(iter([*asked, *known]), None)


def gain_sentences(gains: Sequence[RunGain], optimizer: str, curvature: str | None) -> list[str]:
    """Return what assuming the right optimizer brings at each learning rate, in words with intervals.

    Args:
        gains: Of one truth.
        optimizer: As trained.
        curvature: Which gains are meant.
    """
    sentences = []
    for rows in grouped((row for row in gains if row.curvature == curvature), lambda row: row.learning_rate).values():
        mean = next((row for row in rows if row.seed_index is None), None)
        row = mean or rows[0]
        so_far = "" if mean is not None else f" (seed {row.seed_index} so far)"
        sentences.append(_sentence(row, optimizer) + so_far)
    return sentences


def _sentence(row: RunGain, optimizer: str) -> str:
    at = f"At **η = {rate_text(row.learning_rate)}**"
    matched, mismatched, difference = row.matched, row.mismatched, row.difference
    if matched is None or mismatched is None or difference is None:
        return f"{at} the correlations are not defined."
    low, high = row.difference_low, row.difference_high
    certain = (low is not None and low > 0) or (high is not None and high < 0)
    verb = ("raises" if difference > 0 else "lowers") if certain else "changes"
    text = (
        f"{at} assuming {plain(optimizer)} instead of SGD {verb} the agreement from {signed(mismatched, 2)} to "
        f"**{signed(matched, 2)}**: a difference of {lds_text(difference, low, high)}"
    )
    ratios = [value for value in (row.ratio, row.ratio_low, row.ratio_high) if not is_missing(value)]
    if mismatched > 0 and len(ratios) == 3:
        mean, *ends = (f"{100 * (value - 1):+.0f}".replace("-", "−") for value in ratios if value is not None)
        text += f", or {mean} % ({' to '.join(ends)} %)"
    return text + ("." if certain else "; the interval holds 0, so this is undecided.")
