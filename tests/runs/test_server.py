"""The dashboard's process: starts, answers, stops; and says why if it does not."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import pytest

from tda_backend.errors import MachineError
from tda_backend.interfaces.cli import dashboard as server
from tda_backend.studies.store.workspace import Workspace


@pytest.fixture
def page(tmp_path: Path, monkeypatch) -> Path:
    """A stand-in for the dashboard's main file."""
    path = tmp_path / "app" / "main.py"
    path.parent.mkdir()
    path.write_text("import streamlit as st\nst.write('hello')\n")
    monkeypatch.setattr(server, "find_dashboard", lambda: path)
    return path


@pytest.mark.usefixtures("page")
def test_it_starts_answers_and_stops(tmp_path: Path):
    dashboard = server.Dashboard(
        Workspace.at(tmp_path / "w" / "c.duckdb"), server.free_port(None, search=True), server.Permissions()
    )
    try:
        dashboard.wait_until_ready()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(dashboard.url, timeout=10) as answer:
            assert answer.status == 200
    finally:
        dashboard.stop()
    assert dashboard.process.poll() is not None


def test_a_server_that_ends_at_once_is_reported_with_its_last_words(tmp_path: Path, page: Path):
    page.unlink()
    dashboard = server.Dashboard(
        Workspace.at(tmp_path / "w" / "c.duckdb"), server.free_port(None, search=True), server.Permissions()
    )
    with pytest.raises(MachineError, match=r"ended with status.*server-\d+\.output"):
        dashboard.wait_until_ready()
