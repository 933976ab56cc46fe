"""The page Papers in a browser: filters, an open claim with its figure, its link, and telephones."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.app import catalogues
from tests.app.claims_catalogue import KINDS, compute_claims
from tests.browser.harness import dashboard, drawn, settled, visitor
from tests.browser.test_explorer import in_url, wait_for_url

CLAIM = "claims-of-tiny/a-greater-claim"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A workspace and a data folder of this module's own: results shipped, and the same computed."""
    shared = catalogues.once(tmp_path_factory, "claims", compute_claims)
    place = tmp_path_factory.mktemp("papers")
    shutil.copytree(shared.folder.parent / "data", place / "data")
    shutil.copytree(shared.folder.parent / "exported", place / "data" / "results")
    shutil.copytree(shared.folder, place / "workspace")
    return place


@pytest.fixture(scope="module")
def served(folder) -> Iterator[tuple[str, str]]:
    """Addresses of a server with the study computed, and of one with shipped results alone."""
    before = os.environ.get("TDA_DATA")
    os.environ["TDA_DATA"] = str(folder / "data")
    try:
        with (
            dashboard(folder / "workspace" / "catalogue.duckdb") as computed,
            dashboard(folder / "empty" / "catalogue.duckdb", read_only=True) as shipped,
        ):
            yield computed, shipped
    finally:
        if before is None:
            del os.environ["TDA_DATA"]
        else:
            os.environ["TDA_DATA"] = before


def statements(page: Page):
    return page.locator("[data-testid=stMain] [data-testid=stExpander]").filter(has_text="Statement")


def test_filter_open_and_follow_a_claim(page, served):
    page.goto(f"{served[0]}/papers")
    expect(statements(page)).to_have_count(len(KINDS) + 1)
    settled(page)
    expect(page.locator(".js-plotly-plot")).to_have_count(0)
    page.get_by_role("button", name="SOURCE", exact=True).or_(page.get_by_role("radio", name="SOURCE")).first.click()
    wait_for_url(page, "paper", "source")
    expect(statements(page)).to_have_count(1)
    page.get_by_role("button", name="Taming", exact=True).or_(page.get_by_role("radio", name="Taming")).first.click()
    wait_for_url(page, "paper", "taming")
    row = statements(page).filter(has_text="Statement *number* 0.").first
    row.locator("summary").click()
    wait_for_url(page, "claim", CLAIM)
    expect(row.locator(".js-plotly-plot .main-svg").first).to_be_visible()
    expect(row.get_by_text("What the verdict rests on")).to_be_visible()
    row.get_by_role("button", name="Sensitivity").click()
    page.wait_for_selector("h1:has-text('Sensitivity')")
    wait_for_url(page, "study", "claims-of-tiny")
    assert in_url(page, "method") == "iffim"
    assert in_url(page, "epoch") == "4"
    assert float(str(in_url(page, "lam"))) > 0


def test_closing_a_claim_leaves_the_address(page, served):
    page.goto(f"{served[0]}/papers?claim={CLAIM}")
    row = statements(page).filter(has_text="Statement *number* 0.").first
    expect(row.locator(".js-plotly-plot").first).to_be_visible()
    row.locator("summary").first.click()
    wait_for_url(page, "claim", None)


def test_shipped_results_are_shown_on_a_fresh_machine(page, served):
    page.goto(served[1])
    page.get_by_role("button", name="Open the papers' claims").click()
    page.wait_for_selector("h1:has-text('Papers')")
    expect(statements(page)).to_have_count(len(KINDS) + 1)
    expect(page.get_by_text("shipped result").first).to_be_visible()
    statements(page).filter(has_text="Statement *number* 4.").first.locator("summary").click()
    expect(page.locator(".js-plotly-plot .main-svg").first).to_be_visible()
    expect(page.get_by_role("button", name="Run it here")).to_have_count(0)


@pytest.mark.parametrize("name", ["papers", "methods", "selection"])
def test_pages_of_evidence_fit_a_telephone(chromium, served, name):
    opened = ",".join(f"claims-of-tiny/a-{kind}-claim" for kind in ("greater", "ratio", "regret"))
    with visitor(chromium, viewport={"width": 390, "height": 844}, color_scheme="dark") as page:
        page.goto(f"{served[0]}/{name}?study=claims-of-tiny&method=iffim&claim={opened}")
        page.wait_for_selector(".js-plotly-plot .main-svg")
        settled(page)
        drawn(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        main = page.locator("[data-testid=stMain]")
        assert main.evaluate("(node) => node.scrollWidth - node.clientWidth") <= 0
