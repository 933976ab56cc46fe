"""One Chromium and one served catalogue for all flows; a page that fails its test on any console error."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

import tda_backend as tda
from tda_backend.interfaces.reading.study import Study
from tda_backend.studies.store.workspace import Workspace
from tests.app import catalogues
from tests.browser import harness

# Playwright's default of 5 s is a quarter of what a page takes while another worker loads torch on the same two cores.
expect.set_options(timeout=harness.TIMEOUT)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything here ``browser``; skip it where there is no Chromium, but never silently on CI."""
    here = Path(__file__).parent
    for item in items:
        if here in Path(item.path).parents:
            item.add_marker("browser")
            if harness.chromium_path() is None and os.environ.get("CI", "").lower() not in ("1", "true"):
                item.add_marker(pytest.mark.skip(reason="no Chromium on this machine (set TDA_CHROMIUM)"))


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    with harness.browser() as started:
        yield started


@pytest.fixture(scope="session")
def quick(tmp_path_factory) -> Workspace:
    """The quick version of the embedded study, in a copy that the server may own."""
    shared = catalogues.once(tmp_path_factory, "quick", catalogues.compute_quick)
    return catalogues.copy_of(shared, tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="session")
def study(quick: Workspace) -> Study:
    return tda.open_study("mnist-mlp-quick", quick.catalogue)


@pytest.fixture(scope="session")
def address(quick: Workspace, study: Study) -> Iterator[str]:
    with harness.dashboard(quick.catalogue) as url:
        yield url


@pytest.fixture(scope="session")
def zoo(tmp_path_factory) -> Workspace:
    """Many methods on the tiny task, in a copy that the server may own."""
    shared = catalogues.once(tmp_path_factory, "zoo", catalogues.compute_zoo)
    return catalogues.copy_of(shared, tmp_path_factory.mktemp("served-zoo"))


@pytest.fixture(scope="session")
def zoo_study(zoo: Workspace) -> Study:
    return tda.open_study("zoo", zoo.catalogue)


@pytest.fixture(scope="session")
def zoo_address(zoo: Workspace, zoo_study: Study) -> Iterator[str]:
    with harness.dashboard(zoo.catalogue) as url:
        yield url


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    """A fresh visitor at 1440 px; errors in the console fail the test."""
    with harness.visitor(chromium, viewport={"width": 1440, "height": 1000}, reduced_motion="reduce") as opened:
        yield opened
