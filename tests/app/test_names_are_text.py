"""A catalogue from elsewhere: what its studies, classes and tasks are called is shown as text, never as Markdown."""

from __future__ import annotations

import json
import re
from pathlib import Path

import duckdb
import plotly.graph_objects as go
import pytest

from app.formats import plain
from app.shared.plots import as_text
from tda_backend.studies.jobs.progress import JobState
from tda_backend.studies.store.workspace import Workspace, write_json
from tests.app.catalogues import copy_of

PAGES = ("overview", "explorer", "selection", "sensitivity", "methods", "counterfactuals", "health", "trajectory")
HOSTILE = "![x](http://e.example/p.png) <img src=x> :red[r] $x$ [l](http://e.example) **b**"
LIVE = (r"!\[x\]\(", r"(?<!\\)<img", r":red\[r", r"\$x\$", r"\[l\]\(", r"\*\*b\*\*")
MARKDOWN = ("title", "header", "subheader", "markdown", "caption", "info", "warning", "error", "success", "metric")
LABELLED = ("button", "expander", "radio", "checkbox", "toggle", "button_group", "segmented_control", "pills", "metric")


@pytest.fixture
def renamed(tiny, tmp_path: Path) -> Workspace:
    """The small study under a hostile name, with hostile classes, task, methods' labels and job."""
    copied = copy_of(tiny, tmp_path)
    with duckdb.connect(str(copied.catalogue)) as connection:
        connection.execute("UPDATE studies SET name = ?, task = ?", [HOSTILE, HOSTILE])
        connection.execute("UPDATE configurations SET label = label || ?", [HOSTILE])
        connection.execute("UPDATE examples SET label = label || ?", [HOSTILE])
    ended = JobState("20200101-000000-abcdef", HOSTILE, status="failed", step=HOSTILE, message=HOSTILE, hint=HOSTILE)
    write_json(copied.jobs / "20200101-000000-abcdef.json", vars(ended))
    return copied


def rendered(test) -> list[str]:
    """Return every text of a page that Streamlit takes for Markdown."""
    found = [str(element.value) for kind in MARKDOWN for element in test.get(kind)]
    for kind in LABELLED:
        for element in test.get(kind):
            found.append(str(getattr(element, "label", "")))
            found += [str(option) for option in getattr(element, "options", [])]
            found += [option.content for option in getattr(element.proto, "options", []) if hasattr(option, "content")]
    return found


def live(text: str) -> list[str]:
    """Return what of the hostile text would be more than text: escaped characters are not."""
    return [word for word in LIVE if re.search(word, text)]


@pytest.mark.parametrize("name", PAGES)
def test_hostile_names_are_text_on_every_page(page, renamed: Workspace, name: str):
    test = page(name, renamed)
    assert not test.exception
    wrong = {text[:200]: live(text) for text in rendered(test) if live(text)}
    assert not wrong


def test_a_hostile_link_is_text(page, tiny):
    test = page("explorer", tiny, study=HOSTILE, method=HOSTILE, epoch=HOSTILE, **{"class": HOSTILE})
    assert not test.exception
    assert any("e\\.example" in text for text in rendered(test))  # it is named
    assert not [text for text in rendered(test) if live(text)]


def test_the_test_sees_what_is_live():
    assert live(f"**{HOSTILE}**") == list(LIVE)
    assert live(plain(HOSTILE)) == []


def test_figures_show_names_as_text():
    name = '<a href="http://e.example">x</a><b>bold</b>'
    figure = go.Figure(go.Scatter(x=[1], y=[2], name=name, text=[name], hovertemplate=f"%{{x}}<extra>{name}</extra>"))
    figure.add_annotation(text=name)
    figure.update_xaxes(tickvals=[1], ticktext=[name])
    text = json.dumps(as_text(figure).to_plotly_json(), default=str)
    assert "<a " not in text
    assert text.count("&lt;a ") == 5
    assert "<b>bold</b>" in text
    assert "</extra>" in text
