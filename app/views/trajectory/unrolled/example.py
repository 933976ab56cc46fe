"""One example's effect over the steps of a run, and the examples with the largest effects."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import streamlit as st

from app import session
from app.formats import count_text, joined
from app.shared.gallery import show_training_strip
from app.shared.plots import show_figure
from app.shared.tables import show_data
from app.views.trajectory.charts import effect_text
from app.views.trajectory.examples import example_words, show_payload
from app.views.trajectory.results import Results
from app.views.trajectory.unrolled.choice import Run
from app.views.trajectory.unrolled.data import UNKNOWN, Path, Paths
from app.views.trajectory.unrolled.effects import open_clicked
from app.views.trajectory.unrolled.path_charts import PathRow, path_figure, paths_figure

NUM_ROWS = 20  # of the heatmap over steps


def show_example(results: Results, run: Run) -> None:
    """Draw one example's effect over the steps, and the examples with the largest effects."""
    paths = run.paths
    if paths is None or run.selected not in paths.positions:
        st.info("The effects over the steps of this run are not there yet.")
        return
    wrong = results.wrong_labels()
    _show_strip(results, run, paths, wrong)
    path = paths.of(run.selected)
    left, right = st.columns([1, 4], gap="large")
    with left:
        _show_card(run, path, wrong)
    with right:
        show_figure(
            path_figure(path),
            "trajectory-path",
            f"Effect of training example {path.position} on the mean loss of the queries over the steps: true "
            f"{effect_text(path.truth[-1])}, predicted {effect_text(path.predicted[-1])} at the end",
        )
    st.caption(
        "How much the mean loss of the queries, after so many steps, would be higher without the example (blue: it "
        "helps) or lower (orange: it hurts). There is one truth and one prediction, so no interval; the spread over "
        "examples is in the figure above. Colour goes with the root, so that small effects show."
    )
    show_data(_table(path), "trajectory-path")
    _show_heatmaps(run, paths)


def _table(path: Path) -> pd.DataFrame:
    return pd.DataFrame(
        {"step": path.steps, "true": path.truth, "predicted": path.predicted, "error proxy": path.proxy}
    )


def _show_strip(results: Results, run: Run, paths: Paths, wrong: Mapping[int, str]) -> None:
    """Draw the removed examples, those with the largest effects first; one is picked from them."""
    effects = {
        position: effect_text(value) for position, value in zip(paths.positions, paths.truth[:, -1], strict=True)
    }
    if run.train:
        show_training_strip(
            results.opened,
            [run.train[position] for position in paths.positions],
            [f"({wrong[position]})" if position in wrong else "" for position in paths.positions],
            [f"effect {effects[position]}" for position in paths.positions],
            run.selected,
            "trajectory-strip",
            lambda position: session.update(train=position),
        )
        st.caption(f"{count_text(len(effects), 'removed example')}, those with the largest true effects first.")
        return
    session.control(
        st.selectbox,
        "Removed example, largest true effects first",
        "trajectory-position",
        run.selected,
        lambda value: session.update(train=int(value)),
        options=paths.positions,
        width=360,
        format_func=lambda position: f"position {position}: {effects[position]}",
    )


def _show_card(run: Run, path: Path, wrong: Mapping[int, str]) -> None:
    if run.train:
        show_payload(run.train[path.position])
        words = example_words(run.train[path.position], wrong)
    else:
        words = f"Training example at position **{path.position}**"
    few = [*map(str, path.seen[:6]), *([f"{len(path.seen) - 6} more"] if len(path.seen) > 6 else [])]
    steps = f"in the batch of step{'s' * (len(path.seen) > 1)} {joined(few)}" if path.seen else "in no batch"
    st.markdown(f"{words}, {steps}.")
    final = [("true", path.truth[-1]), ("predicted", path.predicted[-1]), ("error proxy", path.proxy[-1])]
    lines = [f"{name} **{effect_text(value)}**" for name, value in final if np.isfinite(value)]
    st.markdown("At the end of the run:  \n" + "  \n".join(lines))
    if not path.sound:
        st.caption("The error proxy is more than half of the prediction: neither should be trusted here.")


def _show_heatmaps(run: Run, paths: Paths) -> None:
    positions = paths.positions[:NUM_ROWS]
    labels = run.labels
    names = [_row_name(position, labels.get(position, UNKNOWN)) for position in positions]
    steps = paths.steps.tolist()
    st.markdown(f"##### The {len(positions)} most influential examples over the steps")
    for place, (title, values) in zip(
        st.columns(2, gap="large"), (("true", paths.truth), ("predicted", paths.predicted)), strict=True
    ):
        with place:
            st.markdown(f"**{title.capitalize()}**")
            key = f"paths-{title}"
            rows = [PathRow(*row) for row in zip(positions, names, values[: len(positions)], strict=True)]
            show_figure(
                paths_figure(rows, steps, run.selected),
                key,
                f"{title} effects of the {len(rows)} most influential examples over the steps of the run",
                lambda key=key: open_clicked(key),
            )
    st.caption(
        "Each row is an example, each column a step; blue helps, orange hurts. **Click a row** to open the example."
    )
    frames = []
    for position in paths.positions:
        frame = _table(paths.of(position))
        frame.insert(0, "training position", position)
        frames.append(frame)
    show_data(pd.concat(frames), "trajectory-paths", "All removed examples over the steps, table and CSV")


def _row_name(position: int, label: str) -> str:
    short = label if len(label) <= 10 else f"{label[:9]}…"
    return f"#{position}" if label == UNKNOWN else f"#{position}: {short}"
