"""Which training examples a selection keeps and which it drops."""

from __future__ import annotations

import numpy as np
import pandas as pd
import streamlit as st

from app import session
from app.components.gallery import show_training_strip
from app.components.tables import show_data
from app.components.trajectory_run import row_words, show_payload
from app.formats import count_text, is_missing
from app.lookahead_charts import ordered, strategy_name
from app.session import control
from app.trajectory_charts import effect_text
from app.trajectory_data import Results, wrong_shares

SHOWN = 100


def show_examples(results: Results, tuned: pd.DataFrame) -> None:
    """Draw galleries of what the tuned strategies keep most and drop most."""
    frame = results.rows("lookahead_examples")
    if not len(frame):
        return
    st.markdown("##### What selection keeps and drops")
    selective = frame[frame["times_kept"] < frame["times_seen"]]
    names = ordered(selective["strategy"].tolist())
    if not names:
        return
    wanted = session.view().strategy
    strategy = wanted if wanted in names else names[0]
    control(
        st.segmented_control, "Strategy", "lookahead-strategy", strategy,
        lambda value: session.update(strategy=value), options=names, format_func=strategy_name, required=True,
    )  # fmt: skip
    setting = tuned.loc[tuned["strategy"] == strategy, "setting"]
    mine = frame[(frame["strategy"] == strategy) & (frame["times_seen"] > 0)].copy()
    mine["share"] = mine["times_kept"] / mine["times_seen"]
    train, wrong = results.examples("train"), results.wrong_labels()
    score = mine["mean_score"].fillna(0.0)
    kept = mine.assign(score=score).sort_values(["share", "score"], ascending=False, kind="stable")
    dropped = mine.assign(score=score).sort_values(["share", "score"], ascending=True, kind="stable")
    for title, key, rows in (("Kept most", "kept", kept), ("Dropped most", "dropped", dropped)):
        st.markdown(f"**{title}**")
        _show_gallery(results, rows.head(SHOWN), train, wrong, key)
    at = f" ({setting.iloc[0]})" if len(setting) else ""
    st.caption(
        f"{strategy_name(strategy).capitalize().replace('sgd', 'SGD')}{at}, all seeds together: "
        f"{count_text(int(mine['times_seen'].sum()), 'example')} offered, "
        f"{count_text(int(mine['times_kept'].sum()), 'example')} kept. Score: mean over the times an example was "
        "offered; positive: training on it lowers the loss of the selection set. Under each: label, times kept of "
        f"times offered{'; ✗ marks labels known to be wrong' if wrong else ''}."
    )
    _show_open(mine, train, wrong)
    _show_wrong(mine, wrong)
    show_data(_table(kept, train, wrong), "lookahead-examples")


def _words(row: dict) -> str:
    text = f"kept {row['times_kept']} of {row['times_seen']} times"
    return text if is_missing(row["mean_score"]) else f"{text}, mean score {effect_text(row['mean_score'])}"


def _show_gallery(results: Results, rows: pd.DataFrame, train: pd.DataFrame, wrong: dict[int, str], key: str) -> None:
    if not len(train):
        table = rows[["position", "times_kept", "times_seen", "mean_score"]].head(20)
        st.dataframe(table.rename(columns={"position": "training position"}), width="stretch", hide_index=True,
                     height=180)  # fmt: skip
        return
    examples = train.set_index("position", drop=False).loc[rows["position"].tolist()]
    records = rows.to_dict("records")
    marks = [f"· {row['times_kept']}/{row['times_seen']}{' ✗' * (row['position'] in wrong)}" for row in records]
    notes = [f"{_words(row)}{', known: ' + wrong[row['position']] if row['position'] in wrong else ''}"
             for row in records]  # fmt: skip
    examples = examples.assign(prediction=None)  # what counts here is the label
    show_training_strip(
        results.opened, examples, marks, notes, session.view().kept, f"lookahead-{key}",
        lambda position: session.update(kept=position),
    )  # fmt: skip


def _show_open(mine: pd.DataFrame, train: pd.DataFrame, wrong: dict[int, str]) -> None:
    """Draw the example that was clicked, larger."""
    rows = mine[mine["position"] == session.view().kept]
    if not len(rows) or not len(train):
        return
    row = train.set_index("position", drop=False).loc[int(rows["position"].iloc[0])]
    with st.container(border=True):
        left, right = st.columns([1, 4], gap="medium")
        with left:
            show_payload(row)
        right.markdown(f"{row_words(row, wrong)}: {_words(rows.iloc[0].to_dict())}.".replace("$", r"\$"))


def _show_wrong(mine: pd.DataFrame, wrong: dict[int, str]) -> None:
    if not wrong:
        return
    shares = wrong_shares(mine, set(wrong))
    everyone = float(np.average(mine["position"].isin(wrong), weights=mine["times_seen"]))
    words = [f"**{share.value:.1%}** of what was {name} ({share.low:.1%} to {share.high:.1%})"
             for name, share in shares.items()]  # fmt: skip
    st.markdown(
        f"Labels known to be wrong: {' and '.join(words)}; {everyone:.1%} of what was offered. Intervals: 95 % "
        "bootstrap over examples."
    )


def _table(rows: pd.DataFrame, train: pd.DataFrame, wrong: dict[int, str]) -> pd.DataFrame:
    table = pd.DataFrame({"training position": rows["position"].to_numpy()})
    if len(train):
        examples = train.set_index("position").loc[rows["position"].tolist()]
        table["training example"] = examples["index"].to_numpy()
        table["label"] = examples["label"].to_numpy()
    if wrong:
        table["known"] = [wrong.get(int(position), "") for position in rows["position"]]
    for name in ("times_kept", "times_seen", "mean_score"):
        table[name.replace("_", " ")] = rows[name].to_numpy()
    return table
