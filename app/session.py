"""The running page's view: read from the URL, completed from the study, written back so that the link is whole.

The URL is the one place where the view lives. Widgets are set from it before they are drawn and report into it when
they change; the session only remembers it across a change of page, where Streamlit clears the query.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd
import streamlit as st

from app import explorer_data, services
from app import settings as hyper
from app.formats import parse_regularization
from app.state import View, at_configuration, nearest, parse, to_params
from tda_backend.runs.api import Study

_REMEMBERED = "view_params"
_NOTES = "view_notes"
_CONTEXT = "view_context"


@dataclass(frozen=True)
class Context:
    """What every page works with.

    Attributes:
        view: The complete view.
        opened: The study.
        row: Its row of :func:`app.services.studies`.
        configurations: What can be asked for by now; may be empty.
        configuration: The chosen one, or ``None`` while there is none.
        notes: Sentences about what could not be shown as asked.
    """

    view: View
    opened: Study
    row: pd.Series
    configurations: pd.DataFrame
    configuration: pd.Series | None
    notes: list[str] = field(default_factory=list)

    @property
    def configuration_id(self) -> str:
        assert self.configuration is not None
        return str(self.configuration["configuration_id"])

    @property
    def alpha(self) -> float:
        return self.view.alpha or self.opened.alphas[0]


def params() -> dict[str, str]:
    """Return the URL's query; after a change of page, which empties it, the one remembered."""
    current = {name: st.query_params[name] for name in st.query_params}
    if "study" in current:
        return current
    return {**st.session_state.get(_REMEMBERED, {}), **current}


def view() -> View:
    """Return the view as it stands, not completed."""
    return parse(params())[0]


def write(new: View) -> None:
    """Make ``new`` the view: in the URL, and remembered for the next page."""
    wanted = to_params(new)
    st.session_state[_REMEMBERED] = wanted
    for name in [name for name in st.query_params if name not in wanted and not name.startswith("embed")]:
        del st.query_params[name]
    for name, text in wanted.items():
        if st.query_params.get(name) != text:
            st.query_params[name] = text


def update(**changes: Any) -> None:
    """Change some settings of the view."""
    write(replace(view(), **changes))


def note(text: str) -> None:
    """Leave a sentence for the next drawing of the page."""
    st.session_state.setdefault(_NOTES, []).append(text)


def context() -> Context | None:
    """Return what :func:`open_context` found in this run."""
    return st.session_state.get(_CONTEXT)


def open_context() -> Context | None:
    """Find what the pages work with, or ``None`` if there is no study yet; once a run, before anything is drawn.

    Writes the completed view to the URL.

    Raises:
        TDAError: The catalogue cannot be read.
    """
    st.session_state[_CONTEXT] = None
    frame = services.studies()
    if not len(frame):
        return None
    current, notes = parse(params())
    notes = [*st.session_state.pop(_NOTES, []), *notes]
    named = frame[(frame["name"] == current.study) | (frame["study_id"] == current.study)]
    if current.study and not len(named):
        notes.append(f"There is no study {current.study!r} here; {frame['name'].iloc[0]!r} is shown.")
    row = (named if len(named) else frame).iloc[0]
    opened = services.study(str(row["study_id"]))
    current = replace(current, study=str(row["name"]))
    configurations = services.configurations(opened)
    configuration = None
    if len(configurations):
        configuration, sentence = nearest(configurations, current)
        notes += [sentence] if sentence else []
        current = at_configuration(current, configuration)
        current, more = _complete(current, opened, configuration)
        notes += more
    write(current)
    st.session_state[_CONTEXT] = Context(current, opened, row, configurations, configuration, notes)
    return st.session_state[_CONTEXT]


def _complete(current: View, opened: Study, configuration: pd.Series) -> tuple[View, list[str]]:
    """Return the view with λ, query and α filled in, and notes on values that the study does not have."""
    notes = []
    if current.lam is None and configuration["has_regularization"]:
        selected = opened.selection(configuration["configuration_id"]).get("lambda_selected")
        grid = [value for value in opened.info["regularizations"] if value > 0]
        current = replace(current, lam=selected if selected is not None else grid[len(grid) // 2])
    if current.query is not None and current.query >= opened.num_queries:
        notes.append(f"There is no query {current.query}: the study has 0 to {opened.num_queries - 1}.")
        current = replace(current, query=None)
    if current.query is None:
        current = replace(current, query=first_query(opened))
    if current.train is not None and current.train >= opened.num_train:
        notes.append(f"There is no training example {current.train}: the study has 0 to {opened.num_train - 1}.")
        current = replace(current, train=None)
    if current.alpha is not None and current.alpha not in opened.alphas:
        notes.append(f"There are no subsets with α = {current.alpha:g}; {opened.alphas[0]:g} is shown.")
        current = replace(current, alpha=None)
    if current.classes:
        known = set(opened.examples("train")["label"].dropna().astype(str))
        unknown = [name for name in current.classes if name not in known]
        if unknown:
            notes.append(f"No training example has the label {', '.join(map(repr, unknown))}; that filter is left out.")
            current = replace(current, classes=tuple(name for name in current.classes if name in known))
    return current, notes


def first_query(opened: Study) -> int:
    """Return the query to begin with: the first one that the model gets wrong, for there is something to explain."""
    queries = opened.examples("queries")
    for record in queries.to_dict("records"):
        if explorer_data.is_right(record) is False:
            return int(record["position"])
    return 0


def choose(configurations: pd.DataFrame, **change: Any) -> None:
    """Change method, epoch or k; where the combination does not exist, take the nearest and say so."""
    _take(configurations, replace(view(), **change), next(iter(change)))


def choose_method(configurations: pd.DataFrame, method: str) -> None:
    """Change the method; settings that it has too are kept as far as they exist."""
    mine = configurations[configurations["method"] == method]
    _take(configurations, view_for(view(), method, mine), "method")


def view_for(current: View, method: str, configurations: pd.DataFrame) -> View:
    """Return the view for another method, with those settings that its configurations have too."""
    has = {name for row in configurations["settings"] for name in row}
    return replace(current, method=method, settings=tuple(pair for pair in current.settings if pair[0] in has))


def choose_setting(configurations: pd.DataFrame, name: str, value: str) -> None:
    """Change one hyper-parameter of the method; where the combination does not exist, take the nearest and say so."""
    changed = {**dict(view().settings), name: value}
    _take(configurations, replace(view(), settings=tuple(sorted(changed.items()))), name)


def _take(configurations: pd.DataFrame, wanted: View, pinned: str) -> None:
    row, sentence = nearest(configurations, wanted, pinned=pinned)
    if sentence:
        note(sentence)
    write(at_configuration(wanted, row))


def go_to(row: Any, lam: float | None) -> None:
    """Make a configuration and a λ current everywhere."""
    current = at_configuration(view(), row)
    write(replace(current, lam=current.lam if lam is None else lam))


def control(widget: Callable[..., Any], label: str, key: str, value: Any, changed: Callable[[Any], None], **more: Any):
    """Draw a widget that shows ``value`` and reports changes to ``changed``; the URL stays the one owner of the value.

    Args:
        widget: E.g. ``st.selectbox``.
        label: Its label.
        key: Its key.
        value: What it must show now.
        changed: Called with the new value before the page is drawn again.
        **more: Passed on.
    """
    if st.session_state.get(key) != value or key not in st.session_state:
        st.session_state[key] = value
    return widget(label, key=key, on_change=lambda: changed(st.session_state[key]), **more)


def set_regularization(text: str) -> None:
    """Take a typed λ."""
    value = parse_regularization(text)
    if value is None:
        note(f"λ = {text!r} is no number from 0 up; e.g. 0, 0.01 or 1e-3.")
    else:
        update(lam=value)


def options(configurations: pd.DataFrame, method: str, column: str) -> Sequence[Any]:
    """Return the values of ``training_epoch`` or ``projection_dim`` that a method has; unprojected (None) last."""
    values = configurations.loc[configurations["method"] == method, column]
    known = sorted({int(value) for value in values.dropna()})
    return [*known, None] if values.isna().any() else known


def setting_options(configurations: pd.DataFrame, method: str) -> dict[str, list[str]]:
    """Return a method's hyper-parameters that take more than one value here, each with its values."""
    rows = configurations.loc[configurations["method"] == method, "choices"].tolist()
    return {name: hyper.ordered([row[name] for row in rows]) for name in (rows[0] if rows else {})}
