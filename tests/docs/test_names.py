"""Every file, module, class and attribute that the pages on the house name exists; the glossary has each word once."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.docs import worked_examples as worked

ROOT = worked.ROOT
PAGES = ("docs/architecture.md", "docs/extending.md")
TOPS = ("app", "tda_backend", "tests", "docs", "data")


def _named(page: str) -> list[str]:
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.DOTALL)
    return sorted(set(re.findall(r"`([^`\n]+)`", text)))


NAMED = [(page, name) for page in PAGES for name in _named(page)]
PATHS = [(page, name) for page, name in NAMED if re.fullmatch(rf"(?:{'|'.join(TOPS)})/[\w/.\-]+", name)]
MODULES = [(page, name) for page, name in NAMED if re.fullmatch(r"(?:app|tda_backend)(?:\.\w+)+", name)]
IDENTIFIERS = [(page, name) for page, name in NAMED if re.fullmatch(r"[A-Za-z_]\w+(?:\(.*\))?", name)]
MEMBERS = [(page, name) for page, name in NAMED if re.fullmatch(r"[A-Z]\w+\.\w+(?:\(.*\))?", name)]


GLOSSARY = (ROOT / "docs" / "glossary.md").read_text()
WORDS = re.findall(r"^\| \*\*(.+?)\*\* \|", GLOSSARY, re.MULTILINE)
CODE_WORDS = sorted(set(re.findall(r"`([A-Za-z_]\w+)`", GLOSSARY)))


@cache
def _made_by_examples() -> frozenset[str]:
    return frozenset(
        path for example in worked.examples(worked.PAGE.read_text()).values() for path in example.new_files()
    )


@cache
def _classes() -> dict[str, set[str]]:
    """Return class → what classes of this name define, over all sources."""
    found: dict[str, set[str]] = {}
    for top in ("app", "tda_backend"):
        for path in (ROOT / top).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef):
                    found.setdefault(node.name, set()).update(_defined(node.body))
                    found[node.name] |= {f"<{ast.unparse(base)}" for base in node.bases}
    return found


def _defined(body: list[ast.stmt]) -> set[str]:
    names: set[str] = set()
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.If):
            names |= _defined(node.body)
    return names


def _has_member(name: str, member: str) -> bool:
    own = _classes().get(name, set())
    bases = {base[1:].split(".")[-1].split("[")[0] for base in own if base.startswith("<")}
    return member in own or any(_has_member(base, member) for base in bases if base != name)


def _module_file(name: str) -> Path | None:
    path = ROOT.joinpath(*name.split("."))
    return next((found for found in (path.with_suffix(".py"), path / "__init__.py") if found.exists()), None)


def test_the_pages_name_something():
    assert len(PATHS) > 20
    assert MODULES
    assert MEMBERS
    assert len(IDENTIFIERS) > 40


@pytest.mark.parametrize(("page", "name"), PATHS)
def test_path_exists(page: str, name: str):
    assert (ROOT / name).exists() or name in _made_by_examples(), f"{page}: {name}"


@pytest.mark.parametrize(("page", "name"), MODULES)
def test_module_or_what_it_defines_exists(page: str, name: str):
    parent, _, last = name.rpartition(".")
    owner = _module_file(parent)
    inside = owner is not None and last in _defined(ast.parse(owner.read_text()).body)
    assert _module_file(name) or inside, f"{page}: {name}"


@pytest.mark.parametrize(("page", "name"), MEMBERS)
def test_class_has_the_member(page: str, name: str):
    owner, member = name.split("(")[0].split(".")
    assert _has_member(owner, member), f"{page}: {name}"


def test_the_glossary_defines_each_word_once():
    single = [part.strip() for word in WORDS for part in word.split(",")]
    assert len(single) > 60
    assert sorted(single) == sorted(set(single))


@cache
def _source_words() -> frozenset[str]:
    paths = [
        path for top in ("app", "tda_backend") for kind in ("py", "js") for path in (ROOT / top).rglob(f"*.{kind}")
    ]
    return frozenset(word for path in paths for word in re.findall(r"\w+", path.read_text()))


@pytest.mark.parametrize(("page", "name"), IDENTIFIERS)
def test_the_code_uses_the_name(page: str, name: str):
    made = [change.code for example in worked.examples(worked.PAGE.read_text()).values() for change in example.changes]
    assert name.split("(")[0] in _source_words() | set(re.findall(r"\w+", "\n".join(made))), f"{page}: {name}"


@pytest.mark.parametrize("word", CODE_WORDS)
def test_the_code_uses_the_words_of_the_glossary(word: str):
    assert word in _source_words()
