"""A dashboard in a process of its own and a Chromium to look at it with."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run"]  # fmt: skip
START_SECONDS = 60.0


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
def dashboard(db: Path, read_only: bool = False) -> Iterator[str]:
    """Serve a catalogue as ``streamlit run app/main.py``; yield the address; end that process alone."""
    port = free_port()
    environment = {
        **os.environ, "TDA_DB": str(db), "TDA_READ_ONLY": "1" if read_only else "", "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    command = [sys.executable, "-m", "streamlit", "run", str(ROOT / "app" / "main.py"), "--server.port", str(port),
               "--server.address", "127.0.0.1", "--server.headless", "true"]  # fmt: skip
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        try:
            _wait_for(f"http://127.0.0.1:{port}", process, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_for(address: str, process: subprocess.Popen, log) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(f"{address}/_stcore/health"):
            return
        time.sleep(0.1)  # a server in another process has nothing to wait on
    log.seek(0)
    raise RuntimeError(f"The dashboard did not start:\n{log.read().decode(errors='replace')[-3000:]}")


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


def settled(page: Page) -> None:
    """Wait until the page has been drawn and no run of it is on the way."""
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]", timeout=60_000)


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
