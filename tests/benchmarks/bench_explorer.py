"""Input→frame of the live explorer while λ is dragged: ``python -m tests.benchmarks.bench_explorer [--db FILE]``.

Real mouse moves in headless Chromium; measured from the input event to the first task after the frame that shows it.
With ``--db`` the whole dashboard is served on that catalogue and its first study with λ is dragged, at each projection.
Without, the explorer's module runs on factors of 5 000 made-up training examples whose spectrum falls like that of a
trained network, sent as the dashboard sends them: the examples that enter the top or bottom 20 at some λ.
Target: median ≤ 16 ms, 95th percentile ≤ 33 ms.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import platform
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Browser

from tests.browser.harness import browser, chromium_path, dashboard, drag, settled

MEDIAN_MS, P95_MS = 16.0, 33.0
NUM_TRAIN, NUM_SHOWN = 5000, 20
COLOURS = {
    "text-color": "#17212e",
    "background-color": "#fff",
    "border-color": "#dde3ea",
    "primary-color": "#2368b5",
    "blue-color": "#2368b5",
    "orange-color": "#c4570b",
    "violet-color": "#8a4fbf",
    "green-color": "#1f8a70",
    "red-color": "#b3263e",
    "gray-text-color": "#5a6473",
    "blue-background-color": "#e6f0fb",
    "base-radius": "6px",
    "button-radius": "6px",
    "font": "sans-serif",
}


def made_up_payload(num_train: int, width: int, seed: int = 0) -> dict:
    """Return an explorer payload for one query of ``num_train`` examples in ``width`` spectral coordinates."""
    rng = np.random.default_rng(seed)
    eigenvalues = np.exp(np.linspace(np.log(10.0), np.log(1e-8), width)).astype(np.float32)
    query = rng.standard_normal(width) * np.sqrt(eigenvalues)
    products = rng.standard_normal((num_train, width)).astype(np.float32)
    products *= (np.sqrt(eigenvalues) * query).astype(np.float32)
    grid = np.logspace(-7, 1, 49)
    scores = products @ (1 / (eigenvalues[:, None] + np.array([1e-12, *grid])[None])).astype(np.float32)
    order = np.argsort(scores, axis=0)
    chosen = np.unique(np.concatenate([order[: NUM_SHOWN + 7], order[-NUM_SHOWN - 7 :]]))
    sheet = np.kron(rng.integers(0, 255, (-(-len(chosen) // 20), 20)), np.ones((28, 28))).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, "PNG")
    curve = [0.1 + 0.3 * float(np.exp(-((np.log10(value) + 2) ** 2) / 6)) for value in grid]
    strip = {
        "x": grid.tolist(),
        "mean": curve,
        "low": [v - 0.03 for v in curve],
        "high": [v + 0.03 for v in curve],
        "title": "made up",
        "brief": "made up",
        "alt": "made up",
    }
    cards = [
        {
            "position": int(i),
            "label": str(i % 10),
            "prediction": str(i % 9),
            "right": bool(i % 10 == i % 9),
            "alt": f"example {i}",
            "text": "",
        }
        for i in chosen
    ]
    return {
        "filter": "damped_inverse",
        "parameters": {},
        "eigenvalues": base64.b64encode(eigenvalues.tobytes()).decode(),
        "products": base64.b64encode(np.ascontiguousarray(products[chosen]).tobytes()).decode(),
        "cards": cards,
        "sprite": {"url": f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}", "columns": 20},
        "num": NUM_SHOWN,
        "key": "made up",
        "hasLambda": True,
        "lambdaTitle": "λ",
        "blocks": [],
        "kind": "made up",
        "range": [1e-7, 10.0],
        "queryLabel": "4",
        "presets": [],
        "lds": {**strip, "query": curve},
        "xi": {**strip, "threshold": 0.5},
        "note": "",
        "lambda": {"value": 1e-3, "sequence": 1},
    }


def write_page(payload: dict, path: Path) -> None:
    """Write a page that shows the explorer alone, as a static report would."""
    from app.views.explorer.element import explorer_module

    folder = Path(sys.modules["app.views.explorer.element"].__file__ or "").parent
    style = ";".join(f"--st-{name}:{value}" for name, value in COLOURS.items())
    css = json.dumps((folder / "explorer.css").read_text(encoding="utf-8"))
    path.write_text(
        f'<!doctype html><meta charset="utf-8"><body style="margin:16px;{style}"><div id="root"></div>'
        f'<script type="module">{explorer_module()}\n'
        'const root = document.getElementById("root").attachShadow({ mode: "open" });\n'
        f'const style = document.createElement("style"); style.textContent = {css}; root.appendChild(style);\n'
        f"explorer(root, {json.dumps(payload)}, () => {{}});\n</script>",
        encoding="utf-8",
    )


def report(name: str, times: list[float]) -> bool:
    """Print one line; return whether the target was met."""
    median, p95 = float(np.median(times)), float(np.percentile(times, 95))
    met = median <= MEDIAN_MS and p95 <= P95_MS
    print(f"  {name:58s} median {median:5.1f} ms   p95 {p95:5.1f} ms   {'met' if met else 'MISSED'}", flush=True)
    return met


def measure_made_up(chromium: Browser, moves: int) -> bool:
    """Measure the module alone at two widths."""
    met = True
    with tempfile.TemporaryDirectory() as folder:
        for width in (2048, 5000):
            payload = made_up_payload(NUM_TRAIN, width)
            path = Path(folder) / f"{width}.html"
            write_page(payload, path)
            page = chromium.new_page(viewport={"width": 1180, "height": 900})
            page.goto(path.as_uri())
            page.wait_for_selector(".card")
            drag(page, 40)  # the first frames compile the code
            met &= report(f"n = {NUM_TRAIN}, k = {width}, {len(payload['cards'])} candidates", drag(page, moves))
            page.close()
    return met


def measure_dashboard(chromium: Browser, db: Path, moves: int) -> bool:
    """Measure the served dashboard on a real study, at each projection of its influence function."""
    from tda_backend.interfaces.reading.study import list_studies, open_study

    name = str(list_studies(db)["name"].iloc[0])
    study = open_study(name, db)
    rows = study.configurations()
    rows = rows[(rows["method"] == "iffim") & (rows["training_epoch"] == rows["training_epoch"].max())]
    met = True
    with dashboard(db, read_only=True) as address:
        page = chromium.new_page(viewport={"width": 1440, "height": 1000})
        for row in rows.to_dict("records"):
            k = (
                "none"
                if row["projection_dim"] is None or str(row["projection_dim"]) == "<NA>"
                else row["projection_dim"]
            )
            page.goto(f"{address}/explorer?study={name}&method=iffim&epoch={row['training_epoch']}&k={k}&query=7")
            page.wait_for_selector(".card")
            settled(page)
            drag(page, 40)
            settled(page)
            met &= report(f"{name}: n = {study.num_train}, k = {k}", drag(page, moves))
        page.close()
    return met


def main() -> int:
    """Print median and 95th percentile; return 1 if the target was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--db", type=Path, help="catalogue of a real study to drag in the served dashboard")
    parser.add_argument("--quick", action="store_true", help="fewer moves")
    arguments = parser.parse_args()
    if chromium_path() is None:
        print("  no Chromium here: nothing measured (set TDA_CHROMIUM)")
        return 0
    moves = 120 if arguments.quick else 400
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"  {platform.node()}: {platform.machine()}, {os.cpu_count()} cores{load}")
    with browser() as chromium:
        met = measure_made_up(chromium, moves)
        if arguments.db:
            met &= measure_dashboard(chromium, arguments.db, moves)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
