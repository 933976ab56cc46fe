"""Which training examples a selection keeps and which it drops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd
import streamlit as st

from app import session
from app.formats import MISSING, count_text
from app.session import control
from app.shared.gallery import show_training_strip
from app.shared.tables import show_data
from app.views.trajectory.charts import effect_text
from app.views.trajectory.examples import example_words, show_payload
from app.views.trajectory.results import Results
from app.views.trajectory.selection.tuned import Judged
from app.views.trajectory.selection.wrong_labels import offered_share, wrong_shares
from tda_backend.interfaces.reading.records.examples import Example
from tda_backend.interfaces.reading.records.lookahead import SelectedExample
from tda_backend.interfaces.reading.study import Study
from tda_backend.studies.config.strategies import NamedStrategy, ordered, strategy

SHOWN = 100


@dataclass(frozen=True)
class Examples:
    """The training examples that strategies chose among.

    Attributes:
        opened: The study; ``None`` if its results are shipped.
        train: By position; none where nobody has them.
        wrong: Training position → what is known of its right label.
    """

    opened: Study | None
    train: Sequence[Example]
    wrong: Mapping[int, str]


def show_kept(results: Results, judged: Sequence[Judged]) -> None:
    """Draw galleries of what the tuned strategies keep most and drop most."""
    rows = results.read(SelectedExample)
    names = [each.name for each in ordered(row.strategy for row in rows if row.times_kept < row.times_seen)]
    if rows:
        st.markdown("##### What selection keeps and drops")
    if not names:
        return
    chosen = _choose_strategy(names)
    mine = [row for row in rows if row.strategy == chosen.name and row.times_seen]
    known = Examples(results.opened, results.examples("train"), results.wrong_labels())
    kept = sorted(mine, key=lambda row: (-row.share, -(row.mean_score or 0.0)))
    dropped = sorted(mine, key=lambda row: (row.share, row.mean_score or 0.0))
    for title, key, shown in (("Kept most", "kept", kept), ("Dropped most", "dropped", dropped)):
        st.markdown(f"**{title}**")
        _show_gallery(shown[:SHOWN], known, key)
    setting = next((f" ({each.setting})" for each in judged if each.strategy == chosen), "")
    st.caption(
        f"{chosen.heading}{setting}, all seeds together: "
        f"{count_text(sum(row.times_seen for row in mine), 'example')} offered, "
        f"{count_text(sum(row.times_kept for row in mine), 'example')} kept. Score: mean over the times an example was "
        "offered; positive: training on it lowers the loss of the selection set. Under each: label, times kept of "
        f"times offered{'; ✗ marks labels known to be wrong' if known.wrong else ''}."
    )
    _show_open(mine, known)
    _show_wrong(mine, known.wrong)
    show_data(_table(kept, known), "lookahead-examples")


def _choose_strategy(names: Sequence[str]) -> NamedStrategy:
    wanted = session.view().strategy
    chosen = wanted if wanted in names else names[0]
    control(
        st.segmented_control,
        "Strategy",
        "lookahead-strategy",
        chosen,
        lambda value: session.update(strategy=value),
        options=names,
        format_func=lambda name: strategy(name).title,
        required=True,
    )
    return strategy(chosen)


def _words(row: SelectedExample) -> str:
    text = f"kept {row.times_kept} of {row.times_seen} times"
    return text if row.mean_score is None else f"{text}, mean score {effect_text(row.mean_score)}"


def _note(row: SelectedExample, wrong: Mapping[int, str]) -> str:
    known = f", known: {wrong[row.position]}" if row.position in wrong else ""
    return f"{_words(row)}{known}"


def _show_gallery(rows: Sequence[SelectedExample], known: Examples, key: str) -> None:
    if not known.train:
        table = _table(rows[:20], replace(known, wrong={}))
        st.dataframe(table, width="stretch", hide_index=True, placeholder=MISSING, height=180)
        return
    show_training_strip(
        known.opened,
        [replace(known.train[row.position], prediction=None) for row in rows],  # what counts here is the label
        [f"· {row.times_kept}/{row.times_seen}{' ✗' * (row.position in known.wrong)}" for row in rows],
        [_note(row, known.wrong) for row in rows],
        session.view().kept,
        f"lookahead-{key}",
        lambda position: session.update(kept=position),
    )


def _show_open(mine: Sequence[SelectedExample], known: Examples) -> None:
    """Draw the example that was clicked, larger."""
    wanted = session.view().kept
    row = next((row for row in mine if row.position == wanted), None)
    if row is None or not known.train:
        return
    example = known.train[row.position]
    with st.container(border=True):
        left, right = st.columns([1, 4], gap="medium")
        with left:
            show_payload(example)
        right.markdown(f"{example_words(example, known.wrong)}: {_words(row)}.")


def _show_wrong(mine: Sequence[SelectedExample], wrong: Mapping[int, str]) -> None:
    if not wrong:
        return
    words = [
        f"**{share.value:.1%}** of what was {share.name} ({share.low:.1%} to {share.high:.1%})"
        for share in wrong_shares(mine, wrong)
    ]
    st.markdown(
        f"Labels known to be wrong: {' and '.join(words)}; {offered_share(mine, wrong):.1%} of what was offered. "
        "Intervals: 95 % bootstrap over examples."
    )


def _table(rows: Sequence[SelectedExample], known: Examples) -> pd.DataFrame:
    examples = [known.train[row.position] for row in rows] if known.train else []
    columns: dict[str, list] = {"training position": [row.position for row in rows]}
    if examples:
        columns |= {"training example": [each.index for each in examples], "label": [each.label for each in examples]}
    if known.wrong:
        columns |= {"known": [known.wrong.get(row.position, "") for row in rows]}
    columns |= {
        "times kept": [row.times_kept for row in rows],
        "times seen": [row.times_seen for row in rows],
        "mean score": [row.mean_score for row in rows],
    }
    return pd.DataFrame(columns)
