"""Pages whose clocks tick while one goes from one to the other: no tick may reach a page that is gone.

A browser's timers go on until it hears that the page has changed. Here they run twenty times as fast and every answer
of the server is heard late, as over a slow line: what is a matter of luck at a person's pace then happens every time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict

import pytest
from playwright.sync_api import Browser, Page, expect

from tda_backend.studies.jobs.progress import JobState
from tests.browser.harness import visitor

HURRIED = """
const interval = window.setInterval;
window.ticks = 0;
window.setInterval = (call, ms, ...rest) => {
  if (ms < 1000) return interval(call, ms, ...rest);
  const tick = (...given) => {
    window.ticks += 1;
    call(...given);
  };
  return interval(tick, ms / 20, ...rest);
};
window.WebSocket = class extends window.WebSocket {
  addEventListener(type, call, ...rest) {
    super.addEventListener(type, type === "message" ? (event) => setTimeout(call, 150, event) : call, ...rest);
  }
};
"""


@pytest.fixture
def seeming_job(zoo, zoo_study) -> Iterator[None]:
    """A job of the study that seems to go on as long as these tests do, so that pages have clocks."""
    state = JobState(job_id="seeming", study="zoo", study_id=zoo_study.study_id, step="evaluate", done=3, total=9)
    path = zoo.jobs / "zz-seeming.json"
    path.write_text(json.dumps(asdict(state)))
    yield
    path.unlink()


@pytest.fixture
def hurried(chromium: Browser) -> Iterator[Page]:
    """A visitor with a slow line and fast timers; errors in the console fail the test."""
    with visitor(chromium, viewport={"width": 1440, "height": 1000}, reduced_motion="reduce") as opened:
        opened.add_init_script(HURRIED)
        yield opened


def arrived(page: Page, name: str) -> None:
    """Wait until a page is drawn, and stay until its clock has ticked some times."""
    expect(page.get_by_role("heading", level=1, name=name)).to_be_visible()
    if name == "Explorer":
        page.wait_for_selector(".card")
    before = page.evaluate("window.ticks")
    page.wait_for_function("(before) => window.ticks >= before + 4", arg=before)


def test_buttons_lead_away_from_ticking_pages(hurried, zoo_address, seeming_job):
    hurried.goto(zoo_address)
    for _ in range(2):
        hurried.get_by_role("button", name="Open the Explorer").click()
        arrived(hurried, "Explorer")
        hurried.get_by_role("link", name="Overview").click()
        arrived(hurried, "Which training examples")
    hurried.get_by_role("link", name="Sensitivity").click()
    hurried.get_by_role("button", name="Open in the Explorer").click()
    arrived(hurried, "Explorer")


def test_links_lead_away_from_ticking_pages(hurried, zoo_address, seeming_job):
    hurried.goto(f"{zoo_address}/selection")
    for name in ("Overview", "λ selection", "Overview", "Explorer"):
        hurried.get_by_role("link", name=name).first.click()
        arrived(hurried, "Which training examples" if name == "Overview" else name)
