"""How long does the demo take, from nothing, and how much memory do all its processes need together?

    python -m tests.benchmarks.bench_demo [--quick]

Starts `tda demo` on an empty catalogue in a temporary folder, as a new user would, and measures from the start of the
command: until the first page is usable in headless Chromium (skipped with a note where there is no Chromium), until
the first LDS(λ) curve is in the catalogue that pages read, until the study is complete; and the peak of memory over
the whole family of processes (proportional set size, so that shared pages count once).
Targets on two quiet cores: 10 s, 90 s, 360 s, 3 GiB.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

import tda_backend as tda
from tda_backend.errors import TDAError

LIMIT_SECONDS = 1800.0
CHROMIUM = os.environ.get("TDA_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


class MemoryWatch(threading.Thread):
    """Samples the memory of a process and all its descendants."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.root, self.done = psutil.Process(pid), threading.Event()
        self.peak_pss = self.peak_rss = 0

    def run(self) -> None:
        """Sample until ``done``."""
        while not self.done.wait(1.0):
            pss = rss = 0
            try:
                family = [self.root, *self.root.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            for process in family:
                try:
                    memory = process.memory_full_info()
                except (psutil.NoSuchProcess, psutil.AccessDenied):
                    continue
                pss += getattr(memory, "pss", memory.rss)
                rss += memory.rss
            self.peak_pss, self.peak_rss = max(self.peak_pss, pss), max(self.peak_rss, rss)


def free_port() -> int:
    """Return a port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def open_browser(stack: contextlib.ExitStack) -> Any:
    """Return an empty page of a Chromium that runs already, as a person's browser does; None without one."""
    if CHROMIUM is None:
        return None
    from playwright.sync_api import sync_playwright

    playwright = stack.enter_context(sync_playwright())
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
    stack.callback(browser.close)
    return browser.new_page()


def wait_for_page(page: Any, url: str, started: float) -> float:
    """Return the seconds until Overview shows its title."""
    from playwright.sync_api import Error

    while True:
        try:
            page.goto(url)
            break
        except Error:
            time.sleep(0.1)  # the server is not there yet: this wait is what is measured
    page.get_by_role("heading").first.wait_for()
    return time.perf_counter() - started


def first_curve(db: Path, name: str) -> tuple[int, float] | None:
    """Return (number of subsets, best mean LDS) of the first evaluated configuration, or None."""
    try:
        study = tda.open_study(name, db=db)
        table = study.lds_table()
    except TDAError:
        return None
    return None if table.empty else (int(table["num_subsets"].max()), float(table["mean"].max()))


def main() -> int:
    """Measure and print; return 1 if the study did not complete."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the small study")
    parser.add_argument("--keep", metavar="FOLDER", type=Path, help="work in this (empty) folder and keep the study")
    arguments = parser.parse_args()
    name = "mnist-mlp-quick" if arguments.quick else "mnist-mlp"
    with tempfile.TemporaryDirectory(prefix="tda-bench-") as temporary:
        db, port = (arguments.keep or Path(temporary)) / "catalogue.duckdb", free_port()
        command = [
            sys.executable,
            "-m",
            "tda_backend",
            "demo",
            "--no-browser",
            "--no-token",
            "--port",
            str(port),
            "--db",
            str(db),
        ]
        command += ["--quick"] if arguments.quick else []
        stack = contextlib.ExitStack()
        tab = open_browser(stack)
        started = time.perf_counter()
        demo = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        output: list[str] = []
        threading.Thread(target=lambda: output.extend(demo.stdout or []), daemon=True).start()
        watch = MemoryWatch(demo.pid)
        watch.start()
        try:
            page = None if tab is None else wait_for_page(tab, f"http://127.0.0.1:{port}/", started)
            stack.close()  # a browser that draws the pages would count as part of the demo
            curve, curve_at, complete = None, None, None
            while demo.poll() is None and time.perf_counter() - started < LIMIT_SECONDS:
                now = time.perf_counter() - started
                if curve is None and (curve := first_curve(db, name)) is not None:
                    curve_at = now
                if any("Study ready" in line for line in output):
                    complete = now
                    break
                time.sleep(0.2 if curve is None else 1.0)
            timings = tda.open_study(name, db=db).timings() if complete else None
        finally:
            stack.close()
            watch.done.set()
            demo.send_signal(signal.SIGTERM)  # SIGINT is ignored when a shell started us in the background
            demo.wait(timeout=60)
    print(
        f"{name} on {platform.node() or 'this machine'}: {platform.processor() or platform.machine()}, "
        f"{os.cpu_count()} cores, load before exit {os.getloadavg()[0]:.1f}"
    )
    print("first page usable        " + (f"{page:6.1f} s (target 10)" if page else "not measured: no Chromium found"))
    if curve is not None and curve_at is not None:
        print(f"first LDS(λ) curve       {curve_at:6.1f} s (target 90), {curve[0]} subsets, best mean {curve[1]:.3f}")
    if complete is None:
        print("the study did not complete; the last lines of the command:", *output[-10:], sep="\n  ")
        return 1
    print(f"study complete           {complete:6.1f} s (target 360)")
    print(
        f"peak memory, all together {watch.peak_pss / 2**30:5.2f} GiB proportional (target 3), "
        f"{watch.peak_rss / 2**30:.2f} GiB if shared pages count for each process"
    )
    if timings is not None:
        steps = timings.groupby("step")["seconds"].agg(["sum", "count"]).sort_values("sum", ascending=False)
        print(
            "where the time went:     "
            + ", ".join(f"{step} {row['sum']:.0f} s ({int(row['count'])})" for step, row in steps.iterrows())
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
