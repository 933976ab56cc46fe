"""The worked examples of docs/extending.md: parsed, applied to a copy of the code, run, and counted."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "extending.md"
PENDING = "<!-- example to come -->"
RUNNER = Path(__file__).with_name("run_commands.py")
TRY = "try/"
"""Files below it try an example out and do not count."""
TIMEOUT_SECONDS = 240

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_FIRST_LINE = re.compile(
    r"(?:#|//|/\*)\s*(?P<verb>file|add to): (?P<path>\S+)(?: (?P<where>after|before): (?P<text>.*?))?(?:\s*\*/)?$"
)


@dataclass(frozen=True)
class Change:
    """A block of code and where it goes.

    Attributes:
        path: Below the root.
        code: Without its first line.
        where: ``after`` or ``before`` the only line that contains ``text``; ``None``: a new file.
        text: Of the line, for a row in a file that exists.
    """

    path: str
    code: str
    where: str | None = None
    text: str = ""


@dataclass(frozen=True)
class Command:
    """A command and the lines that it must print, in this order, among others."""

    line: str
    expected: tuple[str, ...]


@dataclass(frozen=True)
class Example:
    """One section of the page."""

    heading: str
    changes: tuple[Change, ...]
    commands: tuple[Command, ...]
    is_pending: bool

    def new_files(self) -> set[str]:
        """Return the new files that count."""
        return {c.path for c in self.changes if c.where is None and not c.path.startswith(TRY)}

    def new_folders(self) -> set[str]:
        """Return the folders of the new files."""
        return {str(Path(path).parent) for path in self.new_files()}

    def changed_files(self) -> set[str]:
        """Return the files that exist and get rows."""
        return {change.path for change in self.changes if change.where is not None}


@dataclass(frozen=True)
class Allowance:
    """A row of the page's table: what a change may cost."""

    change: str
    anchor: str
    new: int
    is_folder: bool
    changed: int

    def excess(self, example: Example) -> str:
        """Return in words what an example costs beyond it; empty if nothing."""
        made = example.new_folders() if self.is_folder else example.new_files()
        said = [f"new: {', '.join(sorted(made))}"] if len(made) > self.new else []
        changed = sorted(example.changed_files())
        return "; ".join(said + ([f"changed: {', '.join(changed)}"] if len(changed) > self.changed else []))


def allowances(page: str) -> list[Allowance]:
    """Return the rows of the table "what a change costs"."""
    found = re.findall(r"^\| \[([^\]]+)\]\(#([\w-]+)\) \| (\d+)( folder)? \| (\d+) \|$", page, re.MULTILINE)
    return [Allowance(name, anchor, int(new), bool(folder), int(rows)) for name, anchor, new, folder, rows in found]


def examples(page: str) -> dict[str, Example]:
    """Return the sections of the page by anchor."""
    sections = re.split(r"^## ", page, flags=re.MULTILINE)[1:]
    return {parsed.heading.lower().replace(" ", "-"): parsed for parsed in map(_section, sections)}


def _section(text: str) -> Example:
    changes: list[Change] = []
    commands: list[Command] = []
    for kind, code in _BLOCK.findall(text):
        if kind == "console":
            commands += _commands(code)
        else:
            changes.append(_change(code))
    return Example(text.splitlines()[0].strip(), tuple(changes), tuple(commands), PENDING in text)


def _change(code: str) -> Change:
    first, _, rest = code.partition("\n")
    match = _FIRST_LINE.match(first)
    if match is None:
        raise ValueError(f"The first line of a block says where it goes (# file: PATH), not: {first}")
    if (match["verb"] == "file") != (match["where"] is None):
        raise ValueError(f"A new file has no place in it, a row needs one (after: or before:): {first}")
    if match["path"].startswith("/") or ".." in Path(match["path"]).parts:
        raise ValueError(f"A path starts at the root of the project: {first}")
    return Change(match["path"], rest, match["where"], match["text"] or "")


def _commands(code: str) -> list[Command]:
    found: list[tuple[str, list[str]]] = []
    for line in code.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif line.strip():
            found[-1][1].append(line)
    return [Command(line, tuple(expected)) for line, expected in found]


def copy_of_the_code(folder: Path) -> Path:
    """Copy the product into a folder: packages and study files as copies, data files as links."""
    for package in ("tda_backend", "app"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "data").mkdir()
    for path in sorted((ROOT / "data").iterdir()):
        if path.is_dir():
            shutil.copytree(path, folder / "data" / path.name)
        else:
            (folder / "data" / path.name).symlink_to(path)
    return folder


def apply(example: Example, folder: Path) -> None:
    """Write an example's files and rows into a copy of the code."""
    for change in example.changes:
        path = folder / change.path
        if change.where is None:
            if path.exists():
                raise ValueError(f"{change.path} exists already: write a row (# add to: …), or choose another name.")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(change.code)
            continue
        lines = path.read_text().splitlines(keepends=True)
        places = [number for number, line in enumerate(lines) if change.text in line]
        if len(places) != 1:
            raise ValueError(f"{change.path} has {len(places)} lines with {change.text!r}; one is needed.")
        lines.insert(places[0] + (change.where == "after"), change.code)
        path.write_text("".join(lines))


def run(commands: Sequence[Command], folder: Path) -> list[str]:
    """Run commands of an example in the copy, one after the other; return what each printed, both streams together."""
    for command in commands:
        if shlex.split(command.line)[0] not in ("tda", "python"):
            raise ValueError(f"An example runs tda and python, not: {command.line}")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TDA_")}
    environment |= {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "COLUMNS": "200", "PYTHONUNBUFFERED": "1"}
    environment |= {"TDA_DB": str(folder / "workspace" / "catalogue.duckdb")}
    result = subprocess.run(
        [sys.executable, "-P", str(RUNNER), *(command.line for command in commands)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    printed = result.stdout.split("\0")
    if result.returncode:
        failed = commands[min(max(len(printed) - 2, 0), len(commands) - 1)]
        raise AssertionError(f"{failed.line} returned {result.returncode}:\n{result.stdout}")
    return printed[: len(commands)]


def missing_line(expected: tuple[str, ...], printed: str) -> str | None:
    """Return the first expected line that the output lacks after those before it; ``…`` stands for anything."""
    rest = iter([" ".join(line.split()) for line in printed.splitlines()])
    for line in expected:
        pattern = ".*".join(re.escape(part) for part in " ".join(line.split()).split("…"))
        if not any(re.search(pattern, shown) for shown in rest):
            return line
    return None
