"""The running page's view: read from the URL, completed from the study, written back so that the link is whole.

The URL is the one place where the view lives. Widgets are set from it before they are drawn and report into it when
they change; the session only remembers it across a change of page, where Streamlit clears the query.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import streamlit as st

from app import services
from app import settings as hyper
from app.configurations import Configuration, Configurations
from app.formats import parse_regularization
from app.navigation import open_page
from app.nearest import nearest
from app.state import View, at_configuration, parse, to_params
from tda_backend.errors import TDAError
from tda_backend.interfaces.reading.records.selections import Selection, selection_of
from tda_backend.interfaces.reading.records.studies import StudyFacts, StudyRow, facts_of
from tda_backend.interfaces.reading.study import Study

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
    row: StudyRow
    configurations: Configurations
    configuration: Configuration | None
    notes: list[str] = field(default_factory=list)

    @property
    def chosen(self) -> Configuration:
        """The chosen configuration, on pages that are drawn only where there is one."""
        assert self.configuration is not None
        return self.configuration

    @property
    def configuration_id(self) -> str:
        return self.chosen.configuration_id

    @property
    def alpha(self) -> float:
        return self.view.alpha or self.opened.alphas[0]

    @property
    def lam(self) -> float | None:
        """λ of the view; ``None`` where the chosen method has none."""
        return self.view.lam if self.chosen.has_regularization else None

    @property
    def query(self) -> int:
        return self.view.query or 0

    @property
    def has_classes(self) -> bool:
        """Whether labels are classes, so that predictions are right or wrong."""
        return bool(self.opened.info.get("num_classes"))

    @property
    def facts(self) -> StudyFacts:
        return facts_of(self.opened.info)

    def selection(self, configuration_id: str) -> Selection | None:
        """Return λ* of a configuration with its baselines; ``None`` where nothing was selected."""
        return selection_of(self.opened.selection(configuration_id, self.alpha))


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
    """Make ``new`` the view, completed: one step of the browser's history, which goes back to what was before."""
    with contextlib.suppress(TDAError):  # drawing the page says why the catalogue cannot be read
        found = _find(new)
        if found is not None:
            new = found.view
            st.session_state.setdefault(_NOTES, []).extend(found.notes)
    _put(new)


def _put(new: View) -> None:
    """Write a view into the URL, in one call, and remember it for the next page."""
    wanted = to_params(new)
    st.session_state[_REMEMBERED] = wanted
    current = st.query_params.to_dict()
    if {name: text for name, text in current.items() if not name.startswith("embed")} != wanted:
        st.query_params.from_dict(wanted)


def leave(address: str, new: View) -> None:
    """Go to another page with ``new`` as the view: one step of the browser's history, and this page stays as it was."""
    st.session_state[_REMEMBERED] = to_params(new)
    open_page(address)


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
    current, unread = parse(params())
    found = _find(current)
    if found is not None:
        replaced = [each.sentence(to_params(found.view)) for each in unread]
        found = replace(found, notes=[*st.session_state.pop(_NOTES, []), *replaced, *found.notes])
        _put(found.view)
    st.session_state[_CONTEXT] = found
    return found


def _find(current: View) -> Context | None:
    """Return what a view means, completed; ``None`` if there is no study yet."""
    known = services.studies()
    if not known:
        return None
    notes: list[str] = []
    row = next((row for row in known if current.study in (row.name, row.study_id)), None)
    if current.study and row is None:
        notes.append(f"There is no study {current.study!r} here; {known[0].name!r} is shown.")
    row = row or known[0]
    opened = services.study(row.study_id)
    current = replace(current, study=row.name)
    configurations = services.configurations(opened)
    configuration = None
    if len(configurations):
        configuration, sentence = nearest(configurations, current)
        notes += [sentence] if sentence else []
        current = at_configuration(current, configuration)
        current, more = _complete(current, opened, configuration)
        notes += more
    return Context(current, opened, row, configurations, configuration, notes)


def _complete(current: View, opened: Study, configuration: Configuration) -> tuple[View, list[str]]:
    """Return the view with λ, query and α filled in, and notes on values that the study does not have."""
    notes = []
    if current.lam is None and configuration.has_regularization:
        found = selection_of(opened.selection(configuration.configuration_id))
        grid = facts_of(opened.info).positive
        usual = grid[len(grid) // 2]
        current = replace(
            current, lam=usual if found is None or found.lambda_selected is None else found.lambda_selected
        )
    if current.query is not None and current.query >= opened.num_queries:
        first = first_query(opened)
        has = f"the study has 0 to {opened.num_queries - 1}"
        notes.append(f"There is no query {current.query} ({has}); query {first} is shown.")
        current = replace(current, query=first)
    if current.query is None:
        current = replace(current, query=first_query(opened))
    if current.train is not None and current.train >= opened.num_train:
        has = f"the study has 0 to {opened.num_train - 1}"
        notes.append(f"There is no training example {current.train} ({has}); none is open.")
        current = replace(current, train=None)
    if current.alpha is not None and current.alpha not in opened.alphas:
        notes.append(f"There are no subsets with α = {current.alpha:g}; {opened.alphas[0]:g} is shown.")
        current = replace(current, alpha=None)
    if current.right and not opened.info.get("num_classes"):
        notes.append("The labels of this study are no classes, so none is right or wrong: that filter is left out.")
        current = replace(current, right="")
    if current.classes:
        known = services.labels(services.examples(opened, "train"))
        unknown = [name for name in current.classes if name not in known]
        if unknown:
            notes.append(f"No training example has the label {', '.join(map(repr, unknown))}; that filter is left out.")
            current = replace(current, classes=tuple(name for name in current.classes if name in known))
    return current, notes


def first_query(opened: Study) -> int:
    """Return the query to begin with: the first one that the model gets wrong, for there is something to explain."""
    return next((row.position for row in services.examples(opened, "queries") if row.is_right is False), 0)


def choose(configurations: Configurations, **change: Any) -> None:
    """Change method, epoch or k; where the combination does not exist, take the nearest and say so."""
    _take(configurations, replace(view(), **change), next(iter(change)))


def choose_method(configurations: Configurations, method: str) -> None:
    """Change the method; settings that it has too are kept as far as they exist."""
    _take(configurations, view_for(view(), configurations.of(method)), "method")


def view_for(current: View, configurations: Configurations) -> View:
    """Return the view for another method, with those settings that its configurations have too."""
    has = {name for row in configurations for name, _ in row.settings}
    kept = tuple(pair for pair in current.settings if pair[0] in has)
    return replace(current, method=configurations.rows[0].method, settings=kept)


def choose_setting(configurations: Configurations, name: str, value: str) -> None:
    """Change one hyper-parameter of the method; where the combination does not exist, take the nearest and say so."""
    changed = {**dict(view().settings), name: value}
    _take(configurations, replace(view(), settings=tuple(sorted(changed.items()))), name)


def _take(configurations: Configurations, wanted: View, pinned: str) -> None:
    row, sentence = nearest(configurations, wanted, pinned=pinned)
    if sentence:
        note(sentence)
    write(at_configuration(wanted, row))


def go_to(row: Configuration, lam: float | None) -> None:
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


def epochs(configurations: Configurations, method: str) -> list[int]:
    """Return the checkpoints at which a method has answers."""
    return sorted({row.training_epoch for row in configurations.of(method)})


def dimensions(configurations: Configurations, method: str) -> list[int | None]:
    """Return the projection dimensions that a method has; unprojected (``None``) last."""
    values = {row.projection_dim for row in configurations.of(method)}
    return [*sorted(value for value in values if value is not None), *([None] if None in values else [])]


def setting_options(configurations: Configurations, method: str) -> dict[str, Sequence[str]]:
    """Return a method's hyper-parameters that take more than one value here, each with its values."""
    rows = [row.choices for row in configurations.of(method)]
    names = [name for name, _ in rows[0]] if rows else []
    return {name: hyper.ordered([hyper.value_of(row, name) or "" for row in rows]) for name in names}
