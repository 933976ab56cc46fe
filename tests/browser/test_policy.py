"""Every page under the policy that browsers hold it to, entered as a person enters: by the printed address."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from app.navigation import ADDRESSES
from tda_backend.studies.store.workspace import Workspace
from tests.app import catalogues
from tests.browser import harness

TOKEN = "t" + "p" * 31
DRAWN = "[data-testid=stApp][data-test-script-state=notRunning]"


@pytest.fixture(scope="module")
def guarded(quick: Workspace, tmp_path_factory) -> Iterator[str]:
    """A server that asks for a token."""
    copied = catalogues.copy_of(quick, tmp_path_factory.mktemp("guarded"))
    with harness.dashboard(copied.catalogue, TDA_TOKEN=TOKEN) as url:
        yield url


@pytest.fixture
def held(chromium: Browser) -> Iterator[Page]:
    """A visitor whose browser holds pages to their policy; a violation is an error in the console."""
    with harness.visitor(chromium, bypass_csp=False, viewport={"width": 1440, "height": 1000}) as opened:
        yield opened


def test_every_page_keeps_the_policy(held: Page, guarded: str):
    held.goto(f"{guarded}/?token={TOKEN}")
    expect(held.locator(DRAWN)).to_be_visible()
    assert TOKEN not in held.url
    for address in ADDRESSES:
        held.goto(f"{guarded}/{address}")
        expect(held.locator("h1").first).to_be_visible()
        expect(held.locator(DRAWN)).to_be_visible(timeout=3 * harness.TIMEOUT)  # all figures of a long page
    held.goto(f"{guarded}/selection")
    expect(held.locator(".js-plotly-plot .main-svg").first).to_be_visible()
    held.goto(f"{guarded}/explorer")
    expect(held.locator("input.slider")).to_be_visible()  # a component: a module made at run time
    expect(held.locator(".card").first).to_be_visible()


def test_a_stranger_is_asked_for_the_token_and_gets_in_by_it(chromium: Browser, guarded: str):
    context = chromium.new_context()
    try:
        page = context.new_page()
        answer = page.goto(f"{guarded}/explorer?lam=0.1")
        assert answer is not None
        assert answer.status == 403
        expect(page.locator("h1")).to_have_text("This dashboard asks for its token")
        page.locator("input[name=token]").fill(TOKEN)
        page.locator("button").click()
        expect(page.locator(DRAWN)).to_be_visible(timeout=harness.TIMEOUT)
        assert TOKEN not in page.url
    finally:
        context.close()
