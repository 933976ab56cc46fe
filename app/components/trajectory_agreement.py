"""Does it matter which optimizer is assumed? Agreement of predicted with true effects, and what matching brings."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app import session
from app.components.tables import show_data
from app.formats import count_text, is_missing, lds_text, plain, signed
from app.session import control
from app.trajectory_charts import CURVATURES, agreement_figure, rate_text
from app.trajectory_data import Results, optimizer_name

CHART = {"displaylogo": False, "modeBarButtons": [["toImage"]], "scrollZoom": False, "doubleClick": False}
TRUTHS = {"fixed": "fixed", "smaller": "smaller"}
TRUTH_HELP = (
    "What the truth is: the same run, same start and same batches, with the example's weight set to 0. Fixed: the "
    "batch's mean still divides by its full size. Smaller: it divides by one less, as if the example had never been in "
    "the batch."
)


def show_agreement(results: Results, optimizer: str) -> None:
    """Draw the section.

    Args:
        results: Of the study, with rows of ``trajectory_agreement``.
        optimizer: As trained, in a word.
    """
    truth = session.view().truth
    control(
        st.segmented_control, "Batch without the example", "trajectory-truth", truth,
        lambda value: session.update(truth=value), options=list(TRUTHS), required=True, help=TRUTH_HELP,
    )  # fmt: skip
    rows = results.rows("trajectory_agreement")
    rows = rows[rows["variant"] == truth]
    gains = results.rows("trajectory_gains")
    for sentence in gain_sentences(gains[gains["variant"] == truth], optimizer, results):
        st.markdown(f"- {sentence}")
    if not len(rows):
        st.info("There are no correlations with this truth yet.")
        return
    means = rows[rows["seed_index"].isna()]
    words = [f"{_assumed(row['assumed'], optimizer)}, {row['curvature']}, η = {rate_text(row['learning_rate'])}: "
             f"{signed(row['mean'], 2)}" for row in means.to_dict("records")]  # fmt: skip
    st.plotly_chart(
        agreement_figure(rows, optimizer), width="stretch", config=CHART, key="trajectory-agreement",
        alt="Rank correlation of predicted with true effects against learning rate. " + "; ".join(words),
    )  # fmt: skip
    num = count_text(int(rows["num_removed"].max()), "training example")
    queries = count_text(int(rows["num_queries"].max()), "query", "queries")
    undefined = int(rows["num_undefined"].max())
    left_out = f" {count_text(undefined, 'query', 'queries')} without any effect left out." if undefined else ""
    st.caption(
        f"Spearman's correlation, over {num} removed one at a time, of predicted with true change of a query's loss; "
        f"mean over {queries}.{left_out} Bars: 95 % bootstrap over the removed examples. Small marks: single seeds."
    )
    table = pd.DataFrame(
        {
            "η": [rate_text(value) for value in rows["learning_rate"]],
            "seed": ["mean" if pd.isna(value) else str(value) for value in rows["seed_index"]],
            "assumed": [_assumed(value, optimizer) for value in rows["assumed"]],
            "curvature": [CURVATURES[value][0] for value in rows["curvature"]],
            "correlation": rows["mean"].round(4), "95 % low": rows["ci_low"].round(4),
            "95 % high": rows["ci_high"].round(4), "removed": rows["num_removed"], "queries": rows["num_queries"],
        }
    )  # fmt: skip
    show_data(table, "trajectory-agreement")
    if len(gains):
        show_data(_gains_table(gains), "trajectory-gains", "Gains in pairs, table and CSV")


def _assumed(assumed: str, optimizer: str) -> str:
    return optimizer if assumed == "as trained" else "SGD"


def gain_sentences(gains: pd.DataFrame, optimizer: str, results: Results) -> list[str]:
    """Return what assuming the right optimizer brings at each learning rate, in words with intervals.

    Args:
        gains: Rows of ``trajectory_gains`` of one truth.
        optimizer: As trained.
        results: Whose first curvature is meant.
    """
    if not len(gains):
        return []
    known = list(dict.fromkeys(gains["curvature"]))
    asked = [name for name in results.config.get("trajectory", {}).get("curvatures", []) if name in known]
    mine = gains[gains["curvature"] == (asked or known)[0]]
    sentences = []
    for rate, rows in mine.groupby("learning_rate", sort=False):
        means = rows[rows["seed_index"].isna()]
        row = (means if len(means) else rows).iloc[0].to_dict()
        so_far = "" if len(means) else f" (seed {row['seed_index']} so far)"
        sentences.append(_sentence(row, float(rate), optimizer) + so_far)  # type: ignore[arg-type]
    return sentences


def _sentence(row: dict, rate: float, optimizer: str) -> str:
    numbers = [row[name] for name in ("matched", "mismatched", "difference")]
    if any(is_missing(value) for value in numbers):
        return f"At **η = {rate_text(rate)}** the correlations are not defined."
    matched, mismatched, difference = numbers
    between = lds_text(difference, row["difference_low"], row["difference_high"])
    certain = row["difference_low"] > 0 or row["difference_high"] < 0
    verb = ("raises" if difference > 0 else "lowers") if certain else "changes"
    text = (
        f"At **η = {rate_text(rate)}** assuming {plain(optimizer)} instead of SGD {verb} the agreement from "
        f"{signed(mismatched, 2)} to **{signed(matched, 2)}**: a difference of {between}"
    )
    if mismatched > 0 and not any(is_missing(row[name]) for name in ("ratio", "ratio_low", "ratio_high")):
        percent = [f"{100 * (row[name] - 1):+.0f}".replace("-", "−") for name in ("ratio", "ratio_low", "ratio_high")]
        text += f", or {percent[0]} % ({percent[1]} to {percent[2]} %)"
    return text + ("." if certain else "; the interval holds 0, so this is undecided.")


def _gains_table(gains: pd.DataFrame) -> pd.DataFrame:
    seeds = ["mean" if pd.isna(value) else str(value) for value in gains["seed_index"]]
    columns = ["curvature", "variant", "matched", "mismatched", "difference", "difference_low", "difference_high",
               "ratio", "ratio_low", "ratio_high"]  # fmt: skip
    table = gains[columns].round(4)
    table.insert(0, "seed", seeds)
    table.insert(0, "η", [rate_text(value) for value in gains["learning_rate"]])
    return table


def optimizer_of(results: Results) -> str:
    """Return the optimizer of the recorded runs in a word."""
    return optimizer_name(results.rows("trajectory_runs"))
