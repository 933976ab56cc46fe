"""Local names in normal form: a function whose locals have other names is the same function."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

_LOOK_AT_NAMES = frozenset({"locals", "vars", "eval", "exec", "dir"})
"""A function that calls one of these may read its own locals by name."""
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def number_locals(tree: ast.AST, spoken: frozenset[str]) -> None:
    """Replace every local name by its scope's depth and its place there, in ``tree`` itself.

    Parameters are locals too, but for those in ``spoken``, which a call may name.

    Args:
        tree: A statement of a module.
        spoken: Names of keyword arguments and texts anywhere in the code.
    """
    _Numbering(spoken).visit(tree)


class _Numbering(ast.NodeTransformer):
    """Walks with a stack of scopes, each name → its new one. A class's names are seen by its own statements alone."""

    def __init__(self, spoken: frozenset[str]) -> None:
        self._spoken = spoken
        self._scopes: list[dict[str, str]] = []
        self._classes: list[bool] = []

    def _named(self, name: str) -> str:
        for depth in range(len(self._scopes) - 1, -1, -1):
            hidden = self._classes[depth] and depth < len(self._scopes) - 1
            if not hidden and name in self._scopes[depth]:
                return self._scopes[depth][name]
        return name

    def _inside(self, names: Iterator[str], is_class: bool, *parts: Any) -> None:
        depth = sum(not each for each in self._classes)
        found = list(dict.fromkeys(names))
        self._scopes.append({name: name if is_class else f"{depth}.{place}" for place, name in enumerate(found)})
        self._classes.append(is_class)
        for part in parts:
            for node in part if isinstance(part, list) else [part]:
                self.visit(node)
        self._scopes.pop()
        self._classes.pop()

    def visit_Name(self, node: ast.Name) -> ast.AST:
        node.id = self._named(node.id)
        return node

    def visit_Nonlocal(self, node: ast.Nonlocal) -> ast.AST:
        node.names = [self._named(name) for name in node.names]
        return node

    def _function(self, node: Any) -> ast.AST:
        arguments: ast.arguments = node.args
        for each in [*getattr(node, "decorator_list", []), *arguments.defaults, *arguments.kw_defaults]:
            if each is not None:
                self.visit(each)
        if not isinstance(node, ast.Lambda):
            node.name = self._named(node.name)
        parameters = _parameters(arguments)
        names = [each.arg for each in parameters if each.arg not in self._spoken]
        if not _looks_at_names(node):
            body = node.body if isinstance(node.body, list) else [node.body]
            kept = {each.arg for each in parameters} - {*names}
            bound = [name for name in _bound(body) if name not in kept]
            renamed = iter([*names, *bound])
            self._inside(renamed, False, parameters, node.body)
        return node

    visit_FunctionDef = visit_AsyncFunctionDef = visit_Lambda = _function

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.arg = self._named(node.arg)
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        for each in [*node.decorator_list, *node.bases, *node.keywords]:
            self.visit(each)
        node.name = self._named(node.name)
        self._inside(_bound(node.body), True, node.body)
        return node

    def _comprehension(self, node: Any) -> ast.AST:
        first: ast.comprehension = node.generators[0]
        self.visit(first.iter)  # belongs to the scope around it
        source, first.iter = first.iter, ast.Constant(None)
        results = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        targets = (name for each in node.generators for name in _stored(each.target))
        self._inside(targets, False, node.generators, results)
        first.iter = source
        return node

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _comprehension

    def visit_alias(self, node: ast.alias) -> ast.AST:
        bound = node.asname or node.name.partition(".")[0]
        if self._named(bound) != bound:
            node.asname = self._named(bound)
        return node

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> ast.AST:
        node.name = node.name and self._named(node.name)
        return self.generic_visit(node)

    def _match(self, node: Any) -> ast.AST:
        field = "rest" if isinstance(node, ast.MatchMapping) else "name"
        name = getattr(node, field)
        setattr(node, field, name and self._named(name))
        return self.generic_visit(node)

    visit_MatchAs = visit_MatchStar = visit_MatchMapping = _match


def _parameters(arguments: ast.arguments) -> list[ast.arg]:
    found = [*arguments.posonlyargs, *arguments.args, arguments.vararg, *arguments.kwonlyargs, arguments.kwarg]
    return [each for each in found if each is not None]


def _looks_at_names(node: ast.AST) -> bool:
    return any(isinstance(each, ast.Name) and each.id in _LOOK_AT_NAMES for each in ast.walk(node))


def _stored(node: ast.AST) -> Iterator[str]:
    yield from (each.id for each in ast.walk(node) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store))


def _bound(body: list[Any]) -> Iterator[str]:
    """Yield the names that statements bind in their own scope, but for those declared to be another scope's."""
    declared: set[str] = set()
    found: list[str] = []
    queue = list(reversed(body))
    while queue:
        node = queue.pop()
        found.extend(_names_of(node))
        if isinstance(node, ast.Global | ast.Nonlocal):
            declared.update(node.names)
        if isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
            continue
        if isinstance(node, _COMPREHENSIONS):  # only := reaches out of it
            found.extend(each.target.id for each in ast.walk(node) if isinstance(each, ast.NamedExpr))
            continue
        queue.extend(reversed(list(ast.iter_child_nodes(node))))
    yield from (name for name in found if name not in declared)


def _names_of(node: ast.AST) -> list[str]:
    """Return the names that one node binds itself."""
    match node:
        case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
            return [name]
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            return [each.asname or each.name.partition(".")[0] for each in names]
        case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
            return [name]
        case ast.MatchMapping(rest=str(name)):
            return [name]
    return []
