"""Back and Forward: every choice is one step, and an address that is only completed is none."""

from __future__ import annotations

from playwright.sync_api import Browser, Page, expect

from tests.browser.harness import rested, settled, visitor
from tests.browser.test_explorer import START, in_url, wait_for_url

BARE = "study=mnist-mlp-quick"


def at_page(page: Page, name: str, lam: str) -> None:
    """Wait until a page is drawn with a λ in the address."""
    expect(page.get_by_role("heading", level=1, name=name)).to_be_visible()
    wait_for_url(page, "lam", lam)


def follow_link(page: Page, name: str) -> None:
    page.get_by_role("link", name=name, exact=True).click()
    expect(page.get_by_role("heading", level=1, name=name)).to_be_visible()
    page.wait_for_function("new URL(location.href).searchParams.has('lam')")
    settled(page)


def test_back_goes_through_the_pages_that_were_seen(page, address):
    page.goto(f"{address}/explorer?{START}")
    page.wait_for_selector(".card")
    settled(page)
    page.get_by_role("button", name="λ = 0", exact=True).click()
    wait_for_url(page, "lam", "0")
    rested(page)
    follow_link(page, "Sensitivity")
    follow_link(page, "Methods")
    assert in_url(page, "lam") == "0"
    for name, lam in (("Sensitivity", "0"), ("Explorer", "0"), ("Explorer", "0.01")):
        page.go_back()
        at_page(page, name, lam)
    for name, lam in (("Explorer", "0"), ("Sensitivity", "0"), ("Methods", "0")):
        page.go_forward()
        at_page(page, name, lam)


def test_back_and_forward_are_kept_from_who_does_not_wait(page, address):
    """What the server says of a page comes when the visitor is a page further."""
    page.goto(f"{address}/explorer?{START}")
    page.wait_for_selector(".card")
    settled(page)
    page.get_by_role("button", name="λ = 0", exact=True).click()
    wait_for_url(page, "lam", "0")
    rested(page)
    for name in ("Sensitivity", "Methods"):
        follow_link(page, name)
    for _ in range(2):
        for _ in range(3):
            page.go_back()
        at_page(page, "Explorer", "0.01")
        for _ in range(3):
            page.go_forward()
        at_page(page, "Methods", "0")


def test_completing_an_address_is_no_step(chromium: Browser, address):
    with visitor(chromium, viewport={"width": 1440, "height": 1000}) as page:
        for query in ("", f"?{BARE}&epoch=99&lam=many"):
            page.goto("about:blank")
            page.goto(f"{address}/explorer{query}")
            page.wait_for_function("new URL(location.href).searchParams.has('query')")
            settled(page)
            page.go_back()
            expect(page).to_have_url("about:blank")
        page.goto(address)
        page.get_by_role("button", name="Open the Explorer").click()
        page.wait_for_selector(".card")
        settled(page)
        page.go_back()
        expect(page.get_by_role("button", name="Open the Explorer")).to_be_visible()
