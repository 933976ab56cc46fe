"""Catalogues and a way to draw one page of the dashboard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import streamlit as st
from streamlit.components.v2 import manifest_scanner
from streamlit.testing.v1 import AppTest, local_script_runner

from tda_backend.studies.store.catalogue import held
from tda_backend.studies.store.workspace import Workspace
from tests.app import catalogues

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session", autouse=True)
def one_scan() -> Iterator[None]:
    """Look for components of installed packages once: every test begins with a server of its own, which looks again."""
    found = manifest_scanner.scan_component_manifests()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest_scanner, "scan_component_manifests", lambda: list(found))
        yield


@pytest.fixture(scope="session", autouse=True)
def no_polling() -> Iterator[None]:
    """Wait for the end of a run's thread: Streamlit asks a thousand times a second, and takes that from the run."""
    ask = local_script_runner.require_widgets_deltas

    def wait(runner: local_script_runner.LocalScriptRunner, timeout: float = 3) -> None:
        thread = runner._script_thread
        assert thread is not None
        thread.join(timeout)
        if not runner.script_stopped():
            ask(runner, 0)  # ends it and says so

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_script_runner, "require_widgets_deltas", wait)
        yield


def opened_once(workspace: Workspace) -> Iterator[Workspace]:
    """Yield a workspace whose catalogue stays open: a server owns it, here nobody does."""
    with held(workspace):
        yield workspace


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Iterator[Workspace]:
    """A small real study, computed; read only."""
    yield from opened_once(catalogues.once(tmp_path_factory, "tiny", catalogues.compute_tiny))


@pytest.fixture(scope="session")
def zoo(tmp_path_factory) -> Iterator[Workspace]:
    """A small real study of many methods and two training seeds; read only."""
    yield from opened_once(catalogues.once(tmp_path_factory, "zoo", catalogues.compute_zoo))


@pytest.fixture(scope="session")
def failed(tmp_path_factory) -> Iterator[Workspace]:
    """A study whose job was killed after its first spectra; read only."""
    yield from opened_once(catalogues.once(tmp_path_factory, "failed", catalogues.compute_failed))


@pytest.fixture
def empty(tmp_path) -> Workspace:
    """A workspace where nothing was ever computed."""
    return Workspace.at(tmp_path / "catalogue.duckdb")


@pytest.fixture
def page(monkeypatch) -> Callable[..., AppTest]:
    """Draw one page: ``page("explorer", workspace, lam="0.01")``."""

    def draw(name: str, workspace: Workspace, read_only: bool = False, **params: str) -> AppTest:
        monkeypatch.setenv("TDA_DB", str(workspace.catalogue))
        monkeypatch.setenv("TDA_READ_ONLY", "1" if read_only else "")
        st.cache_resource.clear()
        test = AppTest.from_string(
            "from app import session\n"
            "from app.shared.sidebar import show_sidebar\n"
            f"from app.views.{name} import page\n"
            "from app.shared.errors import shows_errors\n"
            "@shows_errors\n"
            "def draw():\n"
            "    show_sidebar(session.open_context())\n"
            "    page.render()\n"
            "draw()\n",
            default_timeout=60,
        )
        for key, value in params.items():
            test.query_params[key] = value
        with held(workspace):
            return test.run()

    return draw
