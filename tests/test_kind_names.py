"""The name of a method, step, filter or kind of claim is compared, looked up or listed in its own file alone.

Names come from the tables themselves, so a new row is guarded from its first day. A name that is no ordinary word is
refused wherever it decides something: in a comparison, as a key, in a tuple, list or set, as a default, in a match.
Ordinary words (``train`` is a step, and a split of the data) are refused where they stand for a kind: compared with
something's kind, or as the key of a dict of functions and classes.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted([*ROOT.glob("tda_backend/**/*.py"), *ROOT.glob("app/**/*.py")])
SCRIPTS = sorted(ROOT.glob("app/**/*.js"))
TWINS = "app/views/explorer/filters.js"
"""Where the browser's twins of the filters are."""
TABLES = ("methods", "steps", "filters", "claims")

ORDINARY = {
    "claims": "section of a study file",
    "curvature": "a hyper-parameter, and what is decomposed",
    "diagonal": "of a matrix",
    "examples": "a table, a group of rows, the role of an input",
    "features": "what gradients become; a column",
    "identity": "of a configuration",
    "kronecker": "a structure of a projection",
    "level": "of a curve",
    "loo": "section of a study file, and how it writes α",
    "lookahead": "section of a study file",
    "matched": "a column",
    "proxy": "a column",
    "random": "a strategy, and how projections start",
    "ratio": "a column",
    "regret": "a column",
    "removal": "section of a study file",
    "rule": "a column",
    "rules": "a table",
    "scores": "a file of an artifact",
    "selection": "a page, and a split of the data",
    "source": "key of a paper, a column of a printed table",
    "spectrum": "a file of an artifact",
    "train": "a split of the data",
}
"""Name → what else it means."""

KINDS = {
    "NAME",
    "name",
    "step",
    "method",
    "check",
    "kind",
    "filter",
    "filter_name",
    "recipe",
    "check_name",
    "step_name",
}
"""Attributes, keys and variables that hold the name of a kind."""

_BASIS = "tda_backend/numerics/curvature/kronecker/basis.py"
_VOCABULARY = "numerics' own vocabulary, which methods are named after: the ways to find Λ in a Kronecker basis"
EXCEPTIONS: dict[tuple[str, str], str] = {(_BASIS, "ekfac"): _VOCABULARY, (_BASIS, "kfac"): _VOCABULARY}
"""(file, name) → the reason. Keep it empty if you can."""


def _modules(package: str) -> list[ModuleType]:
    root = importlib.import_module(package)
    found = pkgutil.walk_packages(root.__path__, f"{package}.")
    return [root, *(importlib.import_module(each.name) for each in found)]


def _file(owner: type) -> str:
    return str(Path(inspect.getsourcefile(owner) or "").resolve().relative_to(ROOT))


def _by_class(package: str, base: str) -> dict[str, set[str]]:
    """Return NAME → files of the subclasses of ``base`` that a package defines."""
    found: dict[str, set[str]] = {}
    for module in _modules(package):
        for owner in vars(module).values():
            is_kind = inspect.isclass(owner) and any(each.__name__ == base for each in owner.__mro__[1:])
            if is_kind and isinstance(owner.__dict__.get("NAME"), str):
                found.setdefault(owner.NAME, set()).add(_file(owner))
    return found


def _row_files(name: str) -> set[str]:
    """Return the files of the methods' package that make a row of this name."""
    found = set()
    for path in ROOT.glob("tda_backend/studies/methods/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                named = [each.value for each in node.keywords if each.arg == "name"]
                if any(isinstance(each, ast.Constant) and each.value == name for each in [*node.args[:1], *named]):
                    found.add(str(path.relative_to(ROOT)))
    return found


@cache
def own_files(table: str) -> Mapping[str, set[str]]:
    """Return name → the files where it may stand."""
    if table == "methods":
        from tda_backend.studies.methods import METHODS

        return {name: {_file(type(row))} | _row_files(name) for name, row in METHODS.items()}
    if table == "steps":
        return _by_class("tda_backend.studies.steps", "Step")
    if table == "filters":
        return _by_class("tda_backend.numerics.spectral.filters", "Filter")
    return _by_class("tda_backend.studies", "ClaimKind")


def _decisive(tree: ast.AST) -> Iterator[tuple[str, int, bool]]:
    """Yield (text, line, whether it stands for a kind) for every text that decides something."""
    callables = _callables(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            operands = [node.left, *node.comparators]
            about_kinds = any(_holds_kind(operand) for operand in operands)
            for operand in operands:
                members = operand.elts if isinstance(operand, ast.Tuple | ast.List | ast.Set) else [operand]
                yield from _texts(members, about_kinds)
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                is_callable = isinstance(value, ast.Lambda) or (
                    isinstance(value, ast.Name) and value.id in callables and not value.id.isupper()
                )
                yield from _texts([key], is_callable)
        elif isinstance(node, ast.Subscript):
            yield from _texts([node.slice], False)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in ("get", "pop", "setdefault", "startswith", "endswith"):
                yield from _texts(node.args[:1], node.func.attr[-4:] == "with" and _holds_kind(node.func.value))
        elif isinstance(node, ast.Tuple | ast.List | ast.Set):
            yield from _texts(node.elts, False)
        elif isinstance(node, ast.arguments):
            yield from _texts([*node.defaults, *node.kw_defaults], False)
        elif isinstance(node, ast.AnnAssign):
            yield from _texts([node.value], False)
        elif isinstance(node, ast.Match):
            patterns = [each for case in node.cases for each in ast.walk(case.pattern)]
            values = [each.value for each in patterns if isinstance(each, ast.MatchValue)]
            yield from _texts(values, _holds_kind(node.subject))


def _texts(nodes: list, stands_for_kind: bool) -> Iterator[tuple[str, int, bool]]:
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value, node.lineno, stands_for_kind


def _holds_kind(node: ast.AST) -> bool:
    if isinstance(node, ast.Attribute):
        return node.attr in KINDS
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        return node.slice.value in KINDS
    return isinstance(node, ast.Name) and node.id in KINDS


def _callables(tree: ast.AST) -> set[str]:
    """Return the names of functions and classes that a file defines or imports."""
    names: set[str] = set()
    for node in getattr(tree, "body", []):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
    return names


def strays(file: str, text: str, owners: Mapping[str, set[str]]) -> list[str]:
    """Return where a file decides by a name that another file owns."""
    found = set()
    for word, line, stands_for_kind in _decisive(ast.parse(text)):
        is_refused = word in owners and (stands_for_kind or word not in ORDINARY)
        if is_refused and file not in owners[word] and (file, word) not in EXCEPTIONS:
            found.add((line, word))
    return [f"{file}:{line} {word}" for line, word in sorted(found)]


@pytest.mark.parametrize("table", TABLES)
def test_the_table_has_names_and_each_has_a_file(table: str):
    owners = own_files(table)
    assert len(owners) > 3
    assert all(owners.values())


def test_every_method_is_a_row_of_one_file():
    from tda_backend.studies.methods import METHODS

    assert {name: len(_row_files(name)) for name in METHODS} == dict.fromkeys(METHODS, 1)


@pytest.mark.parametrize("table", TABLES)
def test_names_decide_nothing_outside_their_own_file(table: str):
    owners = own_files(table)
    found = [each for path in SOURCES for each in strays(str(path.relative_to(ROOT)), path.read_text(), owners)]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize("table", TABLES)
def test_scripts_know_no_names_but_the_twins_of_filters(table: str):
    found = []
    for path in SCRIPTS:
        file = str(path.relative_to(ROOT))
        for name in set(own_files(table)) - set(ORDINARY):
            if re.search(rf"[\"'`]{re.escape(name)}[\"'`]", path.read_text()) and (table, file) != ("filters", TWINS):
                found.append(f"{file} {name}")
    assert not found, found


def test_exceptions_are_still_needed_and_have_a_reason():
    words = {path: {word for word, _, _ in _decisive(ast.parse((ROOT / path).read_text()))} for path, _ in EXCEPTIONS}
    assert all(reason and name in words[path] for (path, name), reason in EXCEPTIONS.items())


def test_ordinary_words_are_names_of_something():
    names = set().union(*(own_files(table) for table in TABLES))
    assert set(ORDINARY) <= names


@pytest.mark.parametrize(
    "code",
    [
        'if x == "iffim": pass',
        'if x.method in ("a", "iffim"): pass',
        'TABLE = {"iffim": 1}',
        'y = TABLE["iffim"]',
        'y = TABLE.get("iffim")',
        'NAMES = ["a", "iffim"]',
        'def f(method="iffim"): pass',
        'class A:\n    method: str = "iffim"',
        'match x:\n    case "iffim":\n        pass',
        'if step.NAME == "train": pass',
        'if row["step"] in ("train",): pass',
        'if step.name.startswith("train"): pass',
        'def run(): pass\nRUNS = {"train": run}',
        'RUNS = {"train": lambda: 1}',
    ],
)
def test_a_stray_name_is_found(code: str):
    owners = {"iffim": {"own.py"}, "train": {"own.py"}}
    assert strays("other.py", code, owners)
    assert not strays("own.py", code, owners)


@pytest.mark.parametrize(
    "code",
    [
        'study.scores("iffim")',
        '"""A docstring on iffim."""',
        'rows = data["train"]',
        'groups = ("train", "test")',
        'sizes = {"train": num_train}',
        'if split == "train": pass',
    ],
)
def test_what_decides_nothing_or_is_an_ordinary_word_is_left_alone(code: str):
    assert not strays("other.py", code, {"iffim": {"own.py"}, "train": {"own.py"}})
