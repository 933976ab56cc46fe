"""A dashboard in a process of its own and a Chromium to look at it with."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from playwright.sync_api import Browser, BrowserContext, Locator, Page, TimeoutError, ViewportSize, sync_playwright

from tests.forks import Forked, Job, session_server

ROOT = Path(__file__).resolve().parents[2]
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    # One process draws all pages of this machine's address, one after the other, and keeps the scripts compiled.
    "--process-per-site",
    "--js-flags=--no-flush-bytecode",
]
SITE = "http://127.0.0.1/"
"""Dashboards of any port are of the same site."""
START_SECONDS = 240.0
POINT_ATTEMPTS = 20
TIMEOUT = 60_000
"""Milliseconds that anything on a page may take: a machine under load is far slower than a quiet one."""
_contexts: WeakKeyDictionary[Browser, dict[bool, list[BrowserContext]]] = WeakKeyDictionary()
"""Browser → whether policies are bypassed → contexts without a visitor."""


def chromium_path() -> str | None:
    """Return the browser's executable, or ``None`` if this machine has none."""
    named = os.environ.get("TDA_CHROMIUM")
    if named:
        return named
    found = [shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")]
    return next((path for path in ["/usr/bin/chromium", *found] if path and Path(path).exists()), None)


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """Start Chromium, and end it."""
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium_path(), args=FLAGS)
        try:
            yield started
        finally:
            started.close()


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def dashboard(db: Path, read_only: bool = False, **variables: str) -> Iterator[str]:
    """Serve a catalogue as ``streamlit run app/main.py``; yield the address; end that process alone.

    Args:
        db: The catalogue.
        read_only: Whether the server only reads.
        **variables: Of its environment; without ``TDA_TOKEN`` it lets in everybody, so that tests need none.
    """
    port = free_port()
    environment = {
        **os.environ,
        "TDA_DB": str(db),
        "TDA_READ_ONLY": "1" if read_only else "",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "TDA_NO_TOKEN": "" if "TDA_TOKEN" in variables else "1",
        **variables,
    }
    words = ["run", str(ROOT / "app" / "main.py"), "--server.headless", "true"]
    words += ["--server.port", str(port), "--server.address", "127.0.0.1"]
    process = session_server().start(Job("tests.forks:served", [words], environment))
    try:
        _wait_for(f"http://127.0.0.1:{port}", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.end()


def _wait_for(address: str, process: Forked) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(urllib.error.URLError, OSError):
            try:
                urllib.request.urlopen(f"{address}/healthz").close()
            except urllib.error.HTTPError as answer:
                answer.close()  # something is wrong, and its pages say what
            return
        process.wait_until(time.monotonic() + 0.1)  # a server that has ended answers no more
    raise RuntimeError(f"The dashboard did not start:\n{process.said()}")


def watch(page: Page) -> list[str]:
    """Return a list that fills with what goes wrong on the page: console errors, exceptions, foreign requests."""
    wrong: list[str] = []

    def console(message) -> None:
        if message.type == "error":
            wrong.append(f"console: {message.text} ({message.location.get('url')})")

    def request(sent) -> None:
        if not sent.url.startswith(("http://127.0.0.1:", "ws://127.0.0.1:", "data:", "blob:", "file:", "about:")):
            wrong.append(f"request to {sent.url}")

    page.on("console", console)
    page.on("pageerror", lambda error: wrong.append(f"exception: {error}"))
    page.on("request", request)
    return wrong


@contextlib.contextmanager
def visitor(
    chromium: Browser, *, viewport: ViewportSize | None = None, bypass_csp: bool = True, **media: Any
) -> Iterator[Page]:
    """A fresh visitor; an error in the console is an error of whoever looks.

    Visitors come one after the other in one context, which forgets each: loading and compiling the scripts of the
    pages anew costs two seconds of processor time. An empty page stays in it, so that its process does.

    Args:
        chromium: The browser.
        viewport: The window.
        bypass_csp: The page's policy forbids code from text, by which Playwright waits for functions: it does not hold
            here unless a test asks for it; ``test_policy.py`` looks at every page under it.
        **media: What the visitor prefers, e.g. ``color_scheme="dark"``.
    """
    kept = _contexts.setdefault(chromium, {}).setdefault(bypass_csp, [])
    context = kept.pop() if kept else _new_context(chromium, bypass_csp)
    try:
        page = context.new_page()
        if viewport is not None:
            page.set_viewport_size(viewport)
        page.emulate_media(**media)
        wrong = watch(page)
        yield page
        _forget(context)
    except BaseException:
        context.close()
        raise
    kept.append(context)
    assert not wrong, "\n".join(wrong[:5])


def _new_context(chromium: Browser, bypass_csp: bool) -> BrowserContext:
    """Return a context whose first page shows nothing, and stays: so does the process that draws all of this site."""
    context = chromium.new_context(bypass_csp=bypass_csp)
    context.set_default_timeout(TIMEOUT)
    empty = context.new_page()
    empty.route("**/*", lambda route: route.fulfill(body=""))
    empty.goto(SITE)
    return context


def _forget(context: BrowserContext) -> None:
    """Close a visitor's pages and forget what they have stored and may do; only files and compiled scripts stay."""
    empty, *visited = context.pages
    for page in visited:
        page.close()
    stored = "cookies,local_storage,indexeddb,service_workers,websql,file_systems,shader_cache"
    session = context.new_cdp_session(empty)
    session.send("Storage.clearDataForOrigin", {"origin": "*", "storageTypes": stored})
    session.detach()
    context.clear_cookies()
    context.clear_permissions()


def settled(page: Page) -> None:
    """Wait until the page has been drawn and no run of it is on the way."""
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]")


def drawn(page: Page) -> None:
    """Wait until every chart of the page has its axes."""
    page.wait_for_function(
        """() => {
          const charts = [...document.querySelectorAll(".js-plotly-plot")];
          return charts.length > 0 && charts.every((chart) => chart._fullLayout && chart.querySelector(".main-svg"));
        }"""
    )


def click_point(page: Page, chart: Locator, find: str, arg: Any = None) -> dict[str, Any]:
    """Click a point of a Plotly chart once the chart shows that the pointer is on it, and return the point.

    The page may still draw the chart or move it under the pointer, and Plotly takes a click for the point that it has
    hovered: so the chart is asked for each, and found anew where it moved.

    Args:
        page: The page.
        chart: The chart's ``.js-plotly-plot``.
        find: JavaScript of (plot, arg) that returns the point's ``{x, y}`` in the window, and whatever else is to be
            returned. Where the chart has no such point yet, it may fail.
        arg: Second argument of ``find``.
    """
    found = f"([plot, arg]) => {{ try {{ return ({find})(plot, arg); }} catch {{ return null; }} }}"
    at: dict[str, Any] | None = None
    for _ in range(POINT_ATTEMPTS):
        chart.scroll_into_view_if_needed()
        plot = chart.element_handle()
        try:
            at = page.wait_for_function(found, arg=[plot, arg], timeout=3_000).json_value()
            page.mouse.move(at["x"] - 1, at["y"])
            page.mouse.move(at["x"], at["y"])
            page.wait_for_function("(plot) => plot._hoverdata?.length", arg=plot, timeout=3_000)
        except TimeoutError:
            continue
        if page.evaluate(found, [plot, arg]) == at:
            page.mouse.click(at["x"], at["y"])
            return at
    raise AssertionError(f"The chart did not notice the pointer in {POINT_ATTEMPTS} attempts; it was last at {at}.")


def rested(page: Page) -> None:
    """Wait until the address has the λ that the explorer shows: on a slow machine a drag rests on its way too."""
    page.wait_for_function(
        """() => {
          const box = [...document.querySelectorAll("[data-testid=stBidiComponentIsolated]")]
            .map((host) => host.shadowRoot?.querySelector(".tda")).find((found) => found);
          const shown = Number(box?.dataset.lambda);
          const written = Number(new URL(location.href).searchParams.get("lam") ?? 0);
          return Math.abs(written - shown) <= 1e-5 * shown;
        }"""
    )
    settled(page)


def shows(page: Page, key: str, lam: float | None) -> None:
    """Wait until the explorer has drawn a configuration and query at a λ.

    Args:
        page: The page.
        key: How the element's key begins: study, configuration and query, with slashes.
        lam: As the address has it, to six digits; ``None`` for methods without λ.
    """
    page.wait_for_function(
        """([key, lam]) => {
          const box = [...document.querySelectorAll("[data-testid=stBidiComponentIsolated]")]
            .map((host) => host.shadowRoot?.querySelector(".tda")).find((found) => found);
          if (!box?.dataset.shown?.startsWith(key)) return false;
          return lam === null || Math.abs(Number(box.dataset.lambda) - lam) <= 1e-5 * lam;
        }""",
        arg=[key, lam],
    )


def cards(page: Page, side: str) -> list[int]:
    """Return the training positions of the cards on one side, by rank."""
    return page.evaluate(
        """(side) => {
          const root = [...document.querySelectorAll("[data-testid=stBidiComponentIsolated]")]
            .map((host) => host.shadowRoot).find((shadow) => shadow && shadow.querySelector(".tda"));
          return [...root.querySelectorAll(`.${side} .card:not([hidden])`)]
            .sort((a, b) => a.dataset.rank - b.dataset.rank).map((card) => Number(card.dataset.position));
        }""",
        side,
    )


# From the moment an input event was made to the first task after the frame that shows it.
MEASURE = """
(slider) => {
  window.frames_ms = [];
  slider.addEventListener("input", (event) => {
    const start = event.timeStamp;
    requestAnimationFrame(() => {
      const channel = new MessageChannel();
      channel.port1.onmessage = () => window.frames_ms.push(performance.now() - start);
      channel.port2.postMessage(0);
    });
  }, true);
}
"""


def drag(page: Page, moves: int = 240) -> list[float]:
    """Drag the λ slider with the mouse to and fro; return input→frame of every input event in milliseconds."""
    slider = page.locator("input.slider")
    slider.scroll_into_view_if_needed()
    slider.evaluate(MEASURE)
    box = slider.bounding_box()
    assert box is not None
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 9 + (box["width"] - 18) * float(slider.input_value()) / 1000, y)
    page.mouse.down()
    for step in range(moves):
        page.mouse.move(box["x"] + box["width"] * (0.1 + 0.85 * abs((step / 100) % 2 - 1)), y)
    page.mouse.up()
    return page.evaluate("window.frames_ms")
