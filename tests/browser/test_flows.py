"""Ways through the whole dashboard: links, pages, dark, narrow, and a study that is computed before one's eyes."""

from __future__ import annotations

import re

import pandas as pd
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.harness import cards, click_point, dashboard, drawn, settled, visitor
from tests.browser.test_explorer import (
    START,
    assert_matches_engine,
    in_url,
    open_explorer,
    wait_for_change,
    wait_for_url,
)

PAGES = ("", "explorer", "selection", "sensitivity", "methods", "trajectory", "guide")


def open_page(page: Page, address: str, name: str, query: str = START) -> None:
    page.goto(f"{address}/{name}?{query}")
    page.wait_for_selector("h1")
    settled(page)
    if name == "explorer":
        page.wait_for_selector(".card")
    if name in ("selection", "sensitivity", "methods"):
        drawn(page)


def test_the_first_page_has_a_name_too(page, address):
    page.goto(f"{address}/overview?{START}")
    expect(page.get_by_text("complete", exact=True)).to_be_visible()
    assert page.url.startswith(f"{address}/?")


def test_overview_leads_to_the_explorer(page, address):
    open_page(page, address, "", "")
    expect(page.get_by_text("complete", exact=True)).to_be_visible()
    page.get_by_role("button", name="Open the Explorer").click()
    page.wait_for_selector(".card")
    assert page.url.startswith(f"{address}/explorer?study=mnist-mlp-quick")


def test_the_view_survives_pages_and_reload(page, address, study):
    open_explorer(page, address)
    shown = cards(page, "helpful")
    for name in ("λ selection", "Sensitivity", "Explorer"):
        page.get_by_role("link", name=name).click()
        expect(page.get_by_role("heading", level=1, name=name)).to_be_visible()
        page.wait_for_function("new URL(location.href).searchParams.get('lam') === '0.01'")
    page.wait_for_selector(".card")
    settled(page)
    assert cards(page, "helpful") == shown
    page.reload()
    page.wait_for_selector(".card")
    settled(page)
    assert cards(page, "helpful") == shown
    assert_matches_engine(page, study)


def test_a_copied_link_opens_the_same_view(page, address, study, chromium: Browser):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=address)
    open_explorer(page, address)
    slider = page.locator("input.slider")
    slider.focus()
    slider.press("PageDown")
    wait_for_change(page, "lam", "0.01")
    page.get_by_role("button", name="Copy link to this view").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    link = page.evaluate("navigator.clipboard.readText()")
    assert link == page.url
    with visitor(chromium) as other:
        other.goto(link)
        other.wait_for_selector(".card")
        settled(other)
        assert_matches_engine(other, study)
        assert [cards(other, side) for side in ("helpful", "harmful")] == [
            cards(page, side) for side in ("helpful", "harmful")
        ]
        assert other.locator("input.slider").input_value() == slider.input_value()


def test_the_numbers_of_a_table_are_given_as_csv(page, address):
    open_page(page, address, "methods")
    with page.expect_download() as given:
        page.get_by_role("button", name="Download CSV").first.click()
    assert given.value.suggested_filename == "methods.csv"
    assert list(pd.read_csv(given.value.path())["method"].str.split(",").str[0]) == [
        "Influence function (FIM)",
        "TRAK",
        "TracIn",
    ]


def test_clicking_a_cell_makes_it_current_everywhere(page, address, study):
    open_page(page, address, "sensitivity")
    chart = page.locator(".js-plotly-plot").nth(1)  # λ × k of TRAK
    find = """(plot) => {
      const squares = plot.data[1];
      const index = squares.x.findIndex((x, i) => x === 20 && squares.y[i] === 1);
      if (index < 0) return null;
      const axes = plot._fullLayout, box = plot.getBoundingClientRect();
      return { data: squares.customdata[index],  // near a corner of the cell, not at its centre
        x: box.left + axes.xaxis._offset + axes.xaxis.c2p(squares.x[index] + 0.3),
        y: box.top + axes.yaxis._offset + axes.yaxis.c2p(squares.y[index] - 0.4) };
    }"""
    identity, lam = click_point(page, chart, find)["data"]
    wait_for_url(page, "method", "trak")
    row = study.configurations().set_index("configuration_id").loc[identity]
    assert in_url(page, "k") == "none"
    assert in_url(page, "epoch") == str(row["training_epoch"])
    assert float(str(in_url(page, "lam"))) == pytest.approx(lam, rel=1e-5)
    page.get_by_role("button", name="Open in the Explorer").click()
    page.wait_for_selector(".card")
    settled(page)
    assert in_url(page, "method") == "trak"
    assert_matches_engine(page, study)


def test_the_threshold_moves_lambda_star(page, address):
    open_page(page, address, "selection")
    slider = page.get_by_role("slider")
    slider.focus()
    slider.press("ArrowRight")
    wait_for_url(page, "xi", "0.55")
    expect(page.get_by_text("Regret of each rule")).to_be_visible()


@pytest.mark.parametrize(("name", "scheme"), [*((name, "dark") for name in PAGES), ("explorer", "light")])
def test_every_page_fits_a_telephone_and_both_schemes(chromium: Browser, address, name, scheme):
    with visitor(chromium, viewport={"width": 390, "height": 844}, color_scheme=scheme) as page:
        open_page(page, address, name)
        assert_fits(page, name, scheme)


def assert_fits(page: Page, name: str, scheme: str) -> None:
    """Assert that nothing is wider than a telephone and that the colours are those of the scheme."""
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    main = page.locator("[data-testid=stMain]")
    assert main.evaluate("(node) => node.scrollWidth - node.clientWidth") <= 0
    ground = page.locator("[data-testid=stApp]").evaluate("(node) => getComputedStyle(node).backgroundColor")
    level = sum(int(part) for part in re.findall(r"\d+", ground)[:3])
    assert level > 600 if scheme == "light" else level < 150
    if name == "explorer":
        colour = page.locator(".tda").evaluate("(node) => getComputedStyle(node).color")
        assert abs(sum(int(part) for part in re.findall(r"\d+", colour)[:3]) - level) > 350


def test_read_only_shows_and_starts_nothing(page, quick):
    with dashboard(quick.catalogue, read_only=True) as read_only:
        open_explorer(page, read_only)
        page.get_by_role("link", name="Overview").click()
        expect(page.get_by_role("button", name="Open the Explorer")).to_be_visible()
        expect(page.get_by_role("button", name=re.compile("Run|Resume|Cancel"))).to_have_count(0)
        page.goto("about:blank")  # before the server goes, or the page reports its end


@pytest.mark.slow
def test_a_first_study_fills_the_pages_while_it_is_computed(page, tmp_path):
    with dashboard(tmp_path / "catalogue.duckdb") as address:
        page.goto(f"{address}/explorer")
        expect(page.get_by_text("There is no study yet")).to_be_visible()
        page.get_by_role("button", name="Go to Overview").click()
        page.get_by_role("button", name="Run the quick version").click()
        expect(page.get_by_text(re.compile(r"step \d+ of \d+"))).to_be_visible(timeout=180_000)
        expect(page.get_by_role("button", name="Open the Explorer")).to_be_visible(timeout=240_000)
        page.get_by_role("button", name="Open the Explorer").click()
        page.wait_for_selector(".card", timeout=240_000)
        page.get_by_role("link", name="Overview").click()
        expect(page.get_by_text("complete", exact=True)).to_be_visible(timeout=240_000)
        page.goto("about:blank")
