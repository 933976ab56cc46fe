"""A task's code in normal form: what it computes counts, how it is written and how it shows examples does not.

Comments, docstrings, annotations of functions, what runs only as a script, and the names of locals go. So does what
nothing but the display of examples uses: ``show``, names of classes, and helpers of theirs. Everything else stays, also
what nothing seems to use: names can be looked up in ways that no reader of code finds.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tda_backend.models.tasks.identity.names import number_locals

DISPLAY = frozenset({"show", "target_text", "class_names", "target_mean", "target_std", "target_unit"})
"""Attributes of a task that say how things look; one of them counts where other code uses it."""
_NEVER_READ = ("ctx", "kind", "type_comment")
"""Fields of the tree that follow from others or are for tools."""


def normal_code(files: Sequence[Path], task_classes: Collection[str]) -> str:
    """Return the digest of some files' code in normal form; a file that is no Python counts by its bytes.

    Args:
        files: Of the task; their names and places do not count.
        task_classes: Names of the task's own classes, whose display attributes do not count.
    """
    units: list[_Unit] = []
    texts: list[str] = []
    spoken: set[str] = set()
    for path in files:
        content = path.read_bytes()
        try:
            tree = ast.parse(content)
        except (SyntaxError, ValueError):
            texts.append(hashlib.sha256(content).hexdigest())
            continue
        _strip(tree)
        spoken.update(_spoken(tree))
        units.extend(unit for node in tree.body for unit in _units(path, node, task_classes))
    kept = _kept(units)
    by_file: dict[Path, list[str]] = {}
    for unit in kept:
        number_locals(unit.node, frozenset(spoken))
        by_file.setdefault(unit.path, []).append(_text(unit.node))
    texts.extend("\n".join(parts) for parts in by_file.values())
    return hashlib.sha256("\n\n".join(sorted(texts)).encode()).hexdigest()


@dataclass(frozen=True)
class _Unit:
    """A statement of a module or of a task's class.

    Attributes:
        path: Its file.
        node: The statement; a class of the task without its statements, which are units of their own.
        binds: Names that it gives, if that is all it does; nothing else may be left out.
        uses: Names that it speaks of.
        is_display: Whether it says how things look.
    """

    path: Path
    node: ast.AST
    binds: frozenset[str]
    uses: frozenset[str]
    is_display: bool = False


def _units(path: Path, node: ast.stmt, task_classes: Collection[str]) -> Iterator[_Unit]:
    """Yield the units of one statement of a module."""
    if _is_script(node) or (isinstance(node, ast.ImportFrom) and node.module == "__future__"):
        return
    if not isinstance(node, ast.ClassDef) or node.name not in task_classes:
        yield _unit(path, node)
        return
    body, node.body = node.body, []
    yield replace(_unit(path, node), binds=frozenset())
    for each in body:
        unit = _unit(path, each)
        yield replace(unit, is_display=bool(unit.binds) and unit.binds <= DISPLAY)


def _unit(path: Path, node: ast.stmt) -> _Unit:
    binds = frozenset(_binds(node))
    if _calls(node) and not binds <= DISPLAY:
        binds = frozenset()  # the call may do more than give this name: set a default, fill a table
    return _Unit(path, node, binds, frozenset(_uses(node)))


def _calls(node: ast.stmt) -> bool:
    value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
    return value is not None and any(isinstance(each, ast.Call) for each in ast.walk(value))


def _binds(node: ast.stmt) -> list[str]:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return [node.name]
        case ast.Import() | ast.ImportFrom():
            return [each.asname or each.name.partition(".")[0] for each in node.names]
        case ast.Assign() if all(isinstance(each, ast.Name) for each in node.targets):
            return [each.id for each in node.targets if isinstance(each, ast.Name)]
        case ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
    return []


def _uses(node: ast.AST) -> Iterator[str]:
    for each in ast.walk(node):
        match each:
            case ast.Name(id=name, ctx=ast.Load()) | ast.Attribute(attr=name):
                yield name
            case ast.Constant(value=str(name)) if name.isidentifier():
                yield name
            case ast.keyword(arg=str(name)):
                yield name
            case ast.ImportFrom() if each.module:
                yield each.module.rpartition(".")[2]
                yield from (name.name for name in each.names)


def _kept(units: Sequence[_Unit]) -> list[_Unit]:
    """Return the units without those that say how things look, and without what only these use."""
    display = {number for number, unit in enumerate(units) if unit.is_display}
    while True:
        dropped = _with_helpers(units, display)
        used = {name for number, unit in enumerate(units) if number not in dropped for name in unit.uses}
        wanted = {number for number in display if units[number].binds & used}
        if not wanted:
            return [unit for number, unit in enumerate(units) if number not in dropped]
        display -= wanted


def _with_helpers(units: Sequence[_Unit], display: set[int]) -> set[int]:
    """Return the numbers of ``display``, and of the units that are used by these and by nothing else."""
    users: dict[str, set[int]] = {}
    for number, unit in enumerate(units):
        for name in unit.uses:
            users.setdefault(name, set()).add(number)
    dropped, more = set[int](), set(display)
    while more:
        dropped |= more
        more = set()
        for number, unit in enumerate(units):
            by = set[int]().union(*(users.get(name, set()) for name in unit.binds)) - {number}
            if number not in dropped and by and by <= dropped:
                more.add(number)
    return dropped


def _strip(tree: ast.Module) -> None:
    """Remove docstrings, other texts that nothing reads, and annotations of functions."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            kept = [each for each in body if not _is_text(each)]
            body[:] = kept or ([] if isinstance(node, ast.Module) else [ast.Pass()])
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
        if isinstance(node, ast.arg):
            node.annotation = None


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _is_script(node: ast.stmt) -> bool:
    """Return whether a statement is ``if __name__ == "__main__":`` without an ``else``."""
    match node:
        case ast.If(test=ast.Compare(left=ast.Name(id="__name__"), ops=[ast.Eq()]), orelse=[]):
            return True
    return False


def _spoken(tree: ast.AST) -> Iterator[str]:
    """Yield every name that a call may give a parameter by: keywords, and texts that become keywords."""
    for node in ast.walk(tree):
        match node:
            case ast.keyword(arg=str(name)) | ast.Constant(value=str(name)):
                yield name


def _text(node: object) -> str:
    """Return a tree as text that is the same in every release of Python: without what is empty, and without places."""
    if isinstance(node, ast.AST):
        parts = ((name, getattr(node, name, None)) for name in node._fields if name not in _NEVER_READ)
        given = (f"{name}={_text(value)}" for name, value in parts if value is not None and value != [])
        return f"{type(node).__name__}({', '.join(given)})"
    return f"[{', '.join(map(_text, node))}]" if isinstance(node, list) else repr(node)
