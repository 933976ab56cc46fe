"""Take the pictures in ``docs/``: ``python -m tests.benchmarks.screenshots --db workspace/catalogue.duckdb``."""

from __future__ import annotations

import argparse
import io
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page

from tda_backend.interfaces.reading.study import list_studies
from tests.browser.harness import ROOT, browser, dashboard, settled

MAX_BYTES = 250_000
# name, page, width, height, colour scheme
SHOTS = (
    ("overview", "", 1440, 900, "light"),
    ("explorer", "explorer", 1440, 1180, "light"),
    ("selection", "selection", 1440, 1180, "light"),
    ("sensitivity", "sensitivity", 1440, 1180, "light"),
    ("methods", "methods", 1440, 1180, "light"),
    ("explorer-dark", "explorer", 1440, 1180, "dark"),
    ("explorer-mobile", "explorer", 390, 1500, "light"),
)
READY = {"explorer": ".card", "selection": ".js-plotly-plot .main-svg", "sensitivity": ".js-plotly-plot .main-svg"}


def save(shot: bytes, path: Path) -> int:
    """Write a picture as small as it gets without looking different; return its size in bytes."""
    picture = Image.open(io.BytesIO(shot)).convert("RGB")
    for colours in (256, 128, 64):
        buffer = io.BytesIO()
        picture.quantize(colours, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
        if buffer.tell() <= MAX_BYTES:
            break
    path.write_bytes(buffer.getvalue())
    return buffer.tell()


def take(page: Page, address: str, name: str, query: str) -> bytes:
    """Return the picture of a page once it has been drawn."""
    page.goto(f"{address}/{name}?{query}")
    page.wait_for_selector("h1")
    settled(page)
    page.wait_for_selector(READY.get(name, ".js-plotly-plot .main-svg"))
    page.wait_for_load_state("networkidle")
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return page.screenshot(animations="disabled")


def main() -> None:
    """Take all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--db", type=Path, required=True, help="catalogue with a computed study")
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    parser.add_argument("--query", default="", help="the address's query, e.g. 'query=10&epoch=5&k=none'")
    arguments = parser.parse_args()
    arguments.out.mkdir(exist_ok=True)
    study = list_studies(arguments.db)["name"].iloc[0]
    with dashboard(arguments.db, read_only=True) as address, browser() as chromium:
        for name, where, width, height, scheme in SHOTS:
            context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
            page = context.new_page()
            shot = take(page, address, where, f"study={study}&{arguments.query}")
            size = save(shot, arguments.out / f"{name}.png")
            print(f"{name}.png  {size / 1000:.0f} kB", flush=True)
            context.close()


if __name__ == "__main__":
    main()
