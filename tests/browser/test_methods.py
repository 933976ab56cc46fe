"""Many methods in a browser: their hyper-parameters, their filters at any λ, ranks over seeds, and the next study."""

from __future__ import annotations

import re

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from app.settings import parse_settings, settings_text
from tda_backend.interfaces.reading.study import Study
from tests.app.catalogues import copy_of
from tests.browser.harness import cards, click_point, dashboard, drawn, settled, visitor
from tests.browser.test_explorer import (
    assert_matches_engine,
    configuration_in_url,
    in_url,
    open_explorer,
    wait_for_change,
    wait_for_url,
)

START = "study=zoo&method=iffim&epoch=4&k=none&lam=0.01&query=3"


def choose(page: Page, label: str, option: str) -> None:
    """Choose an option of a select box in the main part of the page."""
    main = page.locator("[data-testid=stMain]")
    main.get_by_role("combobox", name=re.compile(label, re.IGNORECASE)).first.click()
    page.get_by_role("option", name=option, exact=True).click()


@pytest.mark.parametrize(
    "query",
    [
        "method=ekfac&set=damping:relative,fisher:true",
        "method=if-lissa&set=scaling:50,depth:50",
        "method=if-cg&set=max_iter:2",
        "method=if-cg&set=max_iter:5",
        "method=if-explicit",
        "method=logra",
    ],
)
def test_dragging_shows_the_engine_s_ranking(page, zoo_address, zoo_study, query):
    open_explorer(page, zoo_address, f"study=zoo&epoch=4&k=none&lam=0.01&query=3&{query}")
    assert_matches_engine(page, zoo_study)
    slider = page.locator("input.slider")
    slider.focus()
    for key in ("PageUp", "PageUp", "PageDown", "ArrowRight"):
        before = in_url(page, "lam")
        slider.press(key)
        wait_for_change(page, "lam", before)
        assert_matches_engine(page, zoo_study)


def test_method_and_hyper_parameters_switch_the_ranking(page, zoo_address, zoo_study):
    open_explorer(page, zoo_address, START)
    choose(page, "Method", "EK-FAC influence")
    wait_for_url(page, "method", "ekfac")
    assert_matches_engine(page, zoo_study)
    expect(page.locator(".kind")).to_contain_text("exact filter")
    before = cards(page, "helpful")
    chosen = dict(parse_settings(str(in_url(page, "set")))[0])
    for name, other in (("damping", {"absolute": "relative"}), ("fisher", {"true": "empirical"})):
        value = other.get(chosen[name], next(iter(other)))
        choose(page, name, value)
        chosen[name] = value
        wait_for_url(page, "set", settings_text(tuple(chosen.items())))
    assert_matches_engine(page, zoo_study)
    assert cards(page, "helpful") != before
    choose(page, "Method", "Gradient similarity")
    wait_for_url(page, "method", "gradient-similarity")
    expect(page.locator("input.slider")).to_be_hidden()
    expect(page.locator(".kind")).to_contain_text("no λ")
    assert_matches_engine(page, zoo_study)


def test_relative_damping_says_what_lambda_is(page, zoo_address, zoo_study):
    open_explorer(page, zoo_address, f"{START}&method=ekfac&set=damping:relative,fisher:true".replace("iffim", "ekfac"))
    expect(page.locator(".axis")).to_contain_text("relative to each layer's mean curvature")
    row, _ = configuration_in_url(page, zoo_study)
    blocks = zoo_study.source(row.configuration_id)[0].blocks
    layers = page.locator(".layers").inner_text()
    for block in blocks:
        written = re.search(rf"layer {block.name} ([0-9.e-]+)", layers)
        assert written
        assert float(written[1]) == pytest.approx(0.01 * block.scale, rel=6e-3)


def test_where_lissa_diverges_the_page_says_so_and_comes_back(page, zoo_address, zoo_study):
    open_explorer(page, zoo_address, f"{START}&set=scaling:20,depth:50".replace("iffim", "if-lissa"))
    typed = page.get_by_label("λ, type a value")
    typed.fill("45")
    typed.press("Enter")
    expect(page.locator(".problem")).to_contain_text("diverge at this λ")
    expect(page.locator(".card:visible")).to_have_count(0)
    wait_for_url(page, "lam", "45")
    expect(page.get_by_text("the method has no scores at this λ")).to_be_visible()
    typed.fill("0.5")
    typed.press("Enter")
    wait_for_url(page, "lam", "0.5")
    expect(page.locator(".problem")).to_be_hidden()
    assert_matches_engine(page, zoo_study)


def shown_intervals(page: Page, side: str) -> dict[int, tuple[int, int]]:
    """Return training position → (first, last) rank over seeds as the cards say it."""
    texts = page.evaluate(
        """(side) => {
          const root = [...document.querySelectorAll("[data-testid=stBidiComponentIsolated]")]
            .map((host) => host.shadowRoot).find((shadow) => shadow && shadow.querySelector(".tda"));
          return [...root.querySelectorAll(`.${side} .card:not([hidden])`)]
            .map((card) => [Number(card.dataset.position), card.querySelector(".interval").textContent]);
        }""",
        side,
    )
    numbers = {position: [int(part) for part in re.findall(r"\d+", text)] for position, text in texts}
    return {position: (found[0], found[-1]) for position, found in numbers.items()}


def nearest_on_rank_grid(study: Study, lam: float) -> float:
    positive = [value for value in study.info["regularizations"] if value > 0]
    grid = np.geomspace(min(positive), max(positive), 64)
    return float(grid[np.abs(np.log(grid / lam)).argmin()]) if lam > 0 else 0.0


@pytest.mark.parametrize("query", [START, START.replace("iffim", "random"), f"{START}&class=ant"])
def test_cards_show_their_ranks_over_training_seeds(page, zoo_address, zoo_study, query):
    open_explorer(page, zoo_address, query)
    row, _ = configuration_in_url(page, zoo_study)
    for move in ("", "PageUp"):
        if move and row.has_regularization:
            before = in_url(page, "lam")
            page.locator("input.slider").press(move)
            wait_for_change(page, "lam", before)
        lam = nearest_on_rank_grid(zoo_study, float(in_url(page, "lam") or 0))
        for side in ("helpful", "harmful"):
            shown = shown_intervals(page, side)
            assert len(shown) >= 5
            grid = [lam] if row.has_regularization else None
            ranks = zoo_study.rank_intervals(row.configuration_id, 3, list(shown), grid)[0]
            if side == "harmful":
                ranks = zoo_study.num_train + 1 - ranks[:, ::-1]
            assert list(shown.values()) == [tuple(pair) for pair in ranks.tolist()]
    expect(page.locator(".note")).to_contain_text("2 training seeds")
    if "class" in query:
        expect(page.locator(".note")).to_contain_text("not only those that pass the filter")


def test_one_seed_has_no_intervals(page, address):
    open_explorer(page, address)
    expect(page.locator(".interval:visible")).to_have_count(0)


def test_a_row_of_methods_becomes_the_present_one(page, zoo_address):
    page.goto(f"{zoo_address}/methods?{START}")
    drawn(page)
    chart = page.locator(".js-plotly-plot").first
    settled(page)
    find = """(plot) => {
      const trace = plot._fullData.find((each) => each.customdata && each.y.includes("EK-FAC influence"));
      const index = trace.y.indexOf("EK-FAC influence");
      const axes = plot._fullLayout, box = plot.getBoundingClientRect();
      return { x: box.left + axes.xaxis._offset + axes.xaxis.c2p(trace.x[index]),
        y: box.top + axes.yaxis._offset + axes.yaxis.c2p(axes.yaxis.d2c(trace.y[index])) };
    }"""
    click_point(page, chart, find)
    wait_for_url(page, "method", "ekfac")
    page.get_by_role("button", name="Open in the Explorer").click()
    page.wait_for_selector(".card")
    assert in_url(page, "method") == "ekfac"


@pytest.mark.parametrize("name", ["explorer", "methods", "sensitivity"])
def test_many_methods_fit_a_telephone(chromium, zoo_address, name):
    with visitor(chromium, viewport={"width": 390, "height": 844}, color_scheme="dark") as page:
        page.goto(f"{zoo_address}/{name}?{START}&set=damping:relative,fisher:true".replace("iffim", "ekfac"))
        page.wait_for_selector(".card" if name == "explorer" else ".js-plotly-plot .main-svg")
        settled(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        main = page.locator("[data-testid=stMain]")
        assert main.evaluate("(node) => node.scrollWidth - node.clientWidth") <= 0


@pytest.mark.slow
def test_the_form_s_study_is_run(page, quick, tmp_path):
    place = copy_of(quick, tmp_path)
    with dashboard(place.catalogue) as address:
        page.goto(f"{address}/methods")
        page.wait_for_selector("h1")
        settled(page)
        name = page.get_by_role("textbox", name="Name", exact=True)
        name.fill("from-form")
        name.press("Enter")
        expect(page.locator("[data-testid=stCode]").filter(has_text='name = "from-form"')).to_be_visible()
        epochs = page.get_by_role("textbox", name="Epochs kept")
        epochs.fill("0")
        epochs.press("Enter")
        expect(page.get_by_text("training.epochs = 0 is not allowed")).to_be_visible()
        expect(page.get_by_role("button", name="Run this study")).to_be_disabled()
        epochs.fill("1, 5")
        epochs.press("Enter")
        page.get_by_text("Quick version").click()
        run = page.get_by_role("button", name="Run this study")
        expect(run).to_be_enabled()
        run.click()
        expect(page.get_by_text("The study is computed")).to_be_visible(timeout=240_000)
        page.get_by_role("button", name="Look at it in the Explorer").click()
        page.wait_for_selector(".card")
        wait_for_url(page, "study", "from-form-quick")
        page.goto("about:blank")
