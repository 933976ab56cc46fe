"""Counterfactuals and Data health in a browser: one flow each, on a telephone too."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

import tda_backend as tda
from tda_backend.interfaces.reading.study import Study
from tda_backend.studies.store.workspace import Workspace
from tests.app import catalogues
from tests.app.counterfactual_catalogue import compute_counter
from tests.browser.harness import dashboard, drawn, settled, visitor
from tests.browser.test_explorer import in_url, wait_for_change, wait_for_url

START = "study=counter&method=iffim&epoch=4&k=none&lam=0.01"


@pytest.fixture(scope="module")
def counter(tmp_path_factory) -> Workspace:
    shared = catalogues.once(tmp_path_factory, "counter", compute_counter)
    return catalogues.copy_of(shared, tmp_path_factory.mktemp("served-counter"))


@pytest.fixture(scope="module")
def counter_study(counter: Workspace) -> Study:
    return tda.open_study("counter", counter.catalogue)


@pytest.fixture(scope="module")
def counter_address(counter: Workspace, counter_study: Study) -> Iterator[str]:
    with dashboard(counter.catalogue) as url:
        yield url


def strip_button(page: Page, key: int):
    """Return the button of a query or a training example in the strips."""
    return page.locator(f"button.query[data-query='{key}']").first


def test_a_click_on_a_tested_query_draws_its_removal(page, counter_address, counter_study):
    page.goto(f"{counter_address}/counterfactuals?{START}")
    page.locator(".js-plotly-plot").first.wait_for()
    settled(page)
    tested = sorted(set(counter_study.brittleness()["query"]))
    other = next(query for query in tested if str(query) != in_url(page, "query"))
    strip_button(page, other).click()
    wait_for_url(page, "query", str(other))
    settled(page)
    own = page.locator(".js-plotly-plot", has_text="goodness after retraining")
    expect(own.nth(1)).to_be_visible()
    expect(page.get_by_text("This query was not among those tested")).to_have_count(0)
    for title in ("Predicted against actual", "Removing what helped most", "Leaving one example out"):
        expect(page.get_by_role("heading", name=title)).to_be_visible()
    expect(page.get_by_text("random, same class").first).to_be_visible()


def test_the_most_suspicious_example_opens_and_leads_to_the_explorer(page, counter_address, counter_study):
    page.goto(f"{counter_address}/health?{START}")
    page.locator("button.query").first.wait_for()
    settled(page)
    own = counter_study.self_influence("iffim", 0.01, None, 4)[0]
    first = page.locator("button.query").first
    assert int(str(first.get_attribute("data-query"))) == int(own.argmax())
    first.click()
    wait_for_url(page, "train", str(own.argmax()))
    settled(page)
    expect(page.get_by_text("self-influence rank 1 of 60")).to_be_visible()
    page.reload()
    expect(page.get_by_text("self-influence rank 1 of 60")).to_be_visible()
    page.get_by_role("button", name="Open the chosen query in the Explorer").click()
    page.wait_for_selector(".card")


def test_turning_lambda_moves_the_points(page, counter_address):
    page.goto(f"{counter_address}/counterfactuals?{START}&query=1")
    plot = page.locator(".js-plotly-plot").first
    plot.wait_for()
    settled(page)
    drawn(page)
    read = "(plot) => Array.from(plot._fullData.find((trace) => trace.mode === 'markers').x).join()"
    before = plot.evaluate(read)
    typed = page.get_by_label("λ", exact=True)
    at = in_url(page, "lam")
    typed.fill("10")
    typed.press("Enter")
    wait_for_change(page, "lam", at)
    settled(page)
    page.wait_for_function(
        "(before) => Array.from(document.querySelector('.js-plotly-plot')._fullData"
        ".find((trace) => trace.mode === 'markers').x).join() !== before",
        arg=before,
    )


@pytest.mark.parametrize("name", ["counterfactuals", "health"])
def test_the_pages_fit_a_telephone(chromium, counter_address, name):
    with visitor(chromium, viewport={"width": 390, "height": 844}, color_scheme="dark") as page:
        page.goto(f"{counter_address}/{name}?{START}")
        page.locator(".js-plotly-plot").first.wait_for()
        settled(page)
        drawn(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        for plot in page.locator(".js-plotly-plot").all():
            box = plot.bounding_box()
            assert box is not None
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 391
