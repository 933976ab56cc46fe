"""Architecture is a test: import contracts, sizes, and what must never be in the tree."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted([*ROOT.glob("tda_backend/**/*.py"), *ROOT.glob("app/**/*.py")])
ASSETS = sorted([*ROOT.glob("app/**/*.js"), *ROOT.glob("app/**/*.css")])
MAX_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_PARAMETERS = 7
MAX_STRING_SUBSCRIPTS = 300
LATE_IMPORTS = ("tda_backend/interfaces/cli/", "tda_backend/__init__.py")
"""Where functions may import: the command line starts quickly, and so does the package's face."""
UNFORMATTED = "tda_backend/models/tasks/"
"""Where ``fmt: skip`` may stay: the source of built-in tasks is part of every content key."""

FROZEN = {"tda_backend/interfaces/reading/study.py top_examples": "its signature is a contract: docs/interface.md"}
"""Functions that keep more parameters → why."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def _functions() -> Iterator[tuple[str, Function]]:
    for path in SOURCES:
        for node in ast.walk(_tree(path)):
            if isinstance(node, Function):
                yield f"{_name(path)}:{node.lineno} {node.name}", node


def test_import_contracts_hold():
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("path", [*SOURCES, *ASSETS], ids=_name)
def test_file_is_short_enough_to_know_ones_way_in(path: Path):
    lines = len(path.read_text().splitlines())
    assert lines <= MAX_LINES, f"{_name(path)} has {lines} lines; split it (aim for 300)"


def test_functions_are_short_enough_to_see_whole():
    lengths = {where: (node.end_lineno or node.lineno) - node.lineno + 1 for where, node in _functions()}
    long = {where: lines for where, lines in lengths.items() if lines > MAX_FUNCTION_LINES}
    assert not long, long


def test_functions_take_few_parameters():
    """``*args`` and ``**kwargs`` count as one each; ``self`` and ``cls`` are nothing that a caller gives."""

    def count(node: Function) -> int:
        given = node.args
        named = [each.arg for each in given.posonlyargs + given.args + given.kwonlyargs]
        several = [each for each in (given.vararg, given.kwarg) if each is not None]
        return len(named) + len(several) - (named[:1] in (["self"], ["cls"]))

    counted = {where: count(node) for where, node in _functions() if re.sub(r":\d+", "", where) not in FROZEN}
    many = {where: number for where, number in counted.items() if number > MAX_PARAMETERS}
    assert not many, f"make the noun that these parameters are: {many}"


def test_imports_are_at_the_top_of_a_file():
    late = [
        f"{_name(path)}:{inner.lineno}"
        for path in SOURCES
        if not _name(path).startswith(LATE_IMPORTS)
        for node in ast.walk(_tree(path))
        if isinstance(node, Function)
        for inner in ast.walk(node)
        if isinstance(inner, ast.Import | ast.ImportFrom)
    ]
    assert not late, late


def test_the_formatter_skips_nothing():
    found = [
        f"{_name(path)}:{number}"
        for path in SOURCES
        if not _name(path).startswith(UNFORMATTED)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"#\s*fmt:\s*(skip|off)", line)
    ]
    assert not found, found


def test_privates_stay_home():
    found = []
    for path in SOURCES:
        modules: set[str] = set()  # names that stand for other modules of the house
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("app", "tda_backend"):
                if any(_is_private(part) for part in (node.module or "").split(".")):
                    found.append(f"{_name(path)}:{node.lineno} {node.module}")
                found += [
                    f"{_name(path)}:{node.lineno} {alias.name}" for alias in node.names if _is_private(alias.name)
                ]
                modules |= {alias.asname or alias.name for alias in node.names if _is_module(node.module, alias.name)}
        for node in ast.walk(_tree(path)):
            of_module = (
                isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules
            )
            if of_module and _is_private(node.attr):
                found.append(f"{_name(path)}:{node.lineno} {node.value.id}.{node.attr}")
    assert not found, found


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _is_module(package: str | None, name: str) -> bool:
    folder = ROOT.joinpath(*(package or "").split("."))
    return (folder / f"{name}.py").exists() or (folder / name / "__init__.py").exists()


def test_types_stand_where_dicts_of_texts_would():
    """Count ``x["name"]`` and its other spellings ``x.loc[rows, "name"]``, ``itemgetter("name")``."""
    count = {_name(path): sum(_is_string_subscript(node) for node in ast.walk(_tree(path))) for path in SOURCES}
    most = sorted(count.items(), key=lambda pair: -pair[1])[:20]
    assert sum(count.values()) < MAX_STRING_SUBSCRIPTS, (sum(count.values()), most)


def _is_string_subscript(node: ast.AST) -> bool:
    if isinstance(node, ast.Subscript) and not _is_annotation(node):
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        return any(isinstance(part, ast.Constant) and isinstance(part.value, str) for part in parts)
    if isinstance(node, ast.Call):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        return called == "itemgetter" and any(isinstance(argument, ast.Constant) for argument in node.args)
    return False


def _is_annotation(node: ast.Subscript) -> bool:
    return getattr(node.value, "id", getattr(node.value, "attr", "")) in ("Literal", "Annotated", "ClassVar", "type")


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
    allowed = "tda_backend/interfaces/cli/" if "print" in pattern else "no such folder"
    found = [
        f"{_name(path)}:{number}"
        for path in SOURCES
        if not _name(path).startswith(allowed)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(pattern, line)
    ]
    assert not found, f"{reason}: {found}"


def test_every_public_function_has_a_docstring():
    missing = []
    for path in SOURCES:
        for node in _tree(path).body:
            named = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
            if named and not ast.get_docstring(node):
                missing.append(f"{_name(path)}:{node.lineno} {node.name}")
    assert not missing, missing
