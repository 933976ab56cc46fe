"""Architecture is a test: import contracts, file length, and what must never be in the tree."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted([*ROOT.glob("tda_backend/**/*.py"), *ROOT.glob("app/**/*.py")])
MAX_LINES = 450


def test_import_contracts_hold():
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_file_is_short_enough_to_know_ones_way_in(path: Path):
    lines = path.read_text().count("\n")
    assert lines <= MAX_LINES, f"{path.relative_to(ROOT)} has {lines} lines; split it (aim for 300)"


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        (r"nan_to_num", "non-finite numbers raise where they appear"),
        (r"weights_only\s*=\s*False|allow_pickle\s*=\s*True|\bpickle\.load", "no pickle of untrusted files"),
        (r"unsafe_allow_html\s*=\s*True", "data text is escaped"),
        (r"^\s*except Exception:\s*(pass)?\s*$|^\s*except:\s*$", "errors are not hidden"),
        (r"\bprint\(", "the library reports through callbacks and loggers"),
    ],
)
def test_sources_keep_clear_of(pattern: str, reason: str):
    allowed = {ROOT / "tda_backend/runs"} if "print" in pattern else set()
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in SOURCES
        if not any(folder in path.parents for folder in allowed)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(pattern, line)
    ]
    assert not found, f"{reason}: {found}"


def test_every_public_function_has_a_docstring():
    import ast

    missing = []
    for path in SOURCES:
        for node in ast.parse(path.read_text()).body:
            named = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
            if named and not ast.get_docstring(node):
                missing.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert not missing, missing
