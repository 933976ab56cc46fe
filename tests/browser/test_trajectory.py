"""Training trajectory in a browser: clicks on dots, rows and galleries, the address, telephones, both schemes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

import tda_backend as tda
from tda_backend.interfaces.reading.study import Study
from tda_backend.studies.store.workspace import Workspace
from tests.app import catalogues
from tests.app.trajectory_catalogue import compute_unrolled
from tests.browser.harness import click_point, dashboard, drawn, settled, visitor
from tests.browser.test_explorer import in_url, wait_for_url

START = "study=unrolled&rate=0.01&run=0"


@pytest.fixture(scope="module")
def unrolled(tmp_path_factory) -> Workspace:
    shared = catalogues.once(tmp_path_factory, "unrolled", compute_unrolled)
    return catalogues.copy_of(shared, tmp_path_factory.mktemp("served-unrolled"))


@pytest.fixture(scope="module")
def unrolled_study(unrolled: Workspace) -> Study:
    return tda.open_study("unrolled", unrolled.catalogue)


@pytest.fixture(scope="module")
def unrolled_address(unrolled: Workspace, unrolled_study: Study) -> Iterator[str]:
    with dashboard(unrolled.catalogue) as url:
        yield url


def open_trajectory(page: Page, address: str, query: str = START) -> None:
    page.goto(f"{address}/trajectory?{query}")
    expect(page.get_by_role("heading", name="Selecting data while training")).to_be_visible()
    page.locator("button.query").last.wait_for()
    settled(page)
    drawn(page)


def click_example(page: Page, title: str, symbol: str, position: int) -> None:
    """Click the first point with a symbol that stands for one training example."""
    find = """(plot, [symbol, wanted]) => {
      const points = plot._fullData.find((each) => each.marker && each.marker.symbol === symbol && each.customdata);
      const index = Array.from(points.customdata).findIndex((entry) => entry[0] === wanted);
      const axes = plot._fullLayout, box = plot.getBoundingClientRect();
      return {
        x: box.left + axes.xaxis._offset + axes.xaxis.c2p(points.x[index]),
        y: box.top + axes.yaxis._offset + axes.yaxis.c2p(points.y[index]),
      };
    }"""
    click_point(page, page.locator(".js-plotly-plot", has_text=title).first, find, [symbol, position])


def test_a_click_on_a_dot_opens_the_example_and_the_address_keeps_it(page, unrolled_address, unrolled_study):
    open_trajectory(page, unrolled_address)
    row = unrolled_study.trajectory_effects(0.01, 0).iloc[0]
    wanted = int(row["positions"][int(abs(row["truth"]).argsort()[-2])])  # the largest one is open already
    index = unrolled_study.examples("train")["index"][wanted]
    click_example(page, "true change of the loss", "circle", wanted)
    wait_for_url(page, "train", str(wanted))
    settled(page)
    expect(page.get_by_text(f"Training example {index}, label")).to_be_visible()
    page.reload()
    expect(page.get_by_text(f"Training example {index}, label")).to_be_visible()
    assert in_url(page, "train") == str(wanted)


def test_a_click_on_a_row_of_the_heatmap_opens_the_example(page, unrolled_address, unrolled_study):
    open_trajectory(page, unrolled_address)
    wanted = int(unrolled_study.trajectory_paths(0.01, 0)["position"].iloc[-1])
    chart = page.locator(".js-plotly-plot", has_text=f"#{wanted}:").first
    click_example(page, f"#{wanted}:", "square", wanted)
    wait_for_url(page, "train", str(wanted))
    settled(page)
    framed = "(plot) => plot._fullLayout.shapes.length"
    page.wait_for_function("(plot) => plot._fullLayout.shapes.length === 1", arg=chart.element_handle())
    assert chart.evaluate(framed) == 1


def test_switches_change_run_and_query(page, unrolled_address, unrolled_study):
    open_trajectory(page, unrolled_address)
    page.get_by_role("radio", name="0.001", exact=True).click()
    wait_for_url(page, "rate", "0.001")
    page.get_by_role("radio", name="smaller", exact=True).click()
    wait_for_url(page, "truth", "smaller")
    settled(page)
    box = page.get_by_role("combobox", name="Effect on the loss of")
    box.scroll_into_view_if_needed()  # a list that is opened while the page scrolls closes again
    box.click()
    label = unrolled_study.examples("queries")["label"][1]
    page.get_by_role("option", name=f"query 1: {label}", exact=True).click()
    wait_for_url(page, "effect", "1")
    settled(page)
    expect(page.get_by_text("changes the loss of query 1 at the end")).to_be_visible()
    page.get_by_role("link", name="Methods").click()
    expect(page.get_by_role("heading", level=1, name="Methods")).to_be_visible()
    page.get_by_role("link", name="Training trajectory").click()
    expect(page.get_by_text("changes the loss of query 1 at the end")).to_be_visible()
    assert in_url(page, "rate") == "0.001"


def test_what_selection_drops_can_be_opened(page, unrolled_address):
    open_trajectory(page, unrolled_address)
    page.get_by_role("radio", name="gradient alignment").click()
    wait_for_url(page, "strategy", "alignment")
    settled(page)
    first = page.locator("button.query").last
    position = str(first.get_attribute("data-query"))
    first.scroll_into_view_if_needed()
    page.locator(f"button.query[data-query='{position}']").last.click()
    wait_for_url(page, "kept", position)
    expect(page.get_by_text("mean score").last).to_be_visible()
    assert in_url(page, "train") is None


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_the_page_fits_a_telephone(chromium, unrolled_address, scheme):
    with visitor(chromium, viewport={"width": 390, "height": 844}, color_scheme=scheme) as page:
        open_trajectory(page, unrolled_address)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        for plot in page.locator(".js-plotly-plot").all():
            box = plot.bounding_box()
            assert box is not None
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 391
