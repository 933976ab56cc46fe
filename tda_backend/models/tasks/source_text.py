"""Which files a task's code consists of: its own, the factory's, and what these import from beside them.

Found by reading the import statements, not by what happens to be loaded, so that the answer is the same in every
process.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

from tda_backend.types import Task


def task_files(task: Task, spec: str) -> list[Path]:
    """Return the files of a person's own task, sorted; none for the built-in tasks (their versions count instead).

    Args:
        task: The loaded task.
        spec: How it was loaded: ``file.py:factory`` or ``package.module:factory``.
    """
    found: set[Path] = set()
    starts = [*map(class_file, own_classes(task)), _spec_file(spec)]
    queue = [path for path in starts if path is not None]
    package = Path(__file__).resolve().parents[2]
    while queue:
        path = queue.pop().resolve()
        if path in found or package in path.parents or "site-packages" in path.parts or not path.is_file():
            continue
        found.add(path)
        queue.extend(_imports(path))
    return sorted(found)


def own_classes(task: Task) -> list[type]:
    """Return those classes of a task that belong to neither the program nor Python, from the most special."""
    known = {__name__.partition(".")[0], *sys.stdlib_module_names}
    return [each for each in type(task).__mro__ if each.__module__.partition(".")[0] not in known]


def class_file(owner: type) -> Path | None:
    """Return the file that a class is defined in, as :func:`task_files` names it; ``None`` where there is none."""
    try:
        file = inspect.getsourcefile(owner)
    except TypeError:  # defined in a session, not in a file
        return None
    return Path(file).resolve() if file else None


def _spec_file(spec: str) -> Path | None:
    where = spec.rpartition(":")[0]
    if where.endswith(".py"):
        return Path(where).expanduser()
    try:
        found = importlib.util.find_spec(where) if where else None
    except (ImportError, ValueError):
        return None
    return Path(found.origin) if found is not None and found.origin else None


def _imports(path: Path) -> Iterator[Path]:
    """Yield the files beside ``path`` (or beside its packages) that its import statements may mean."""
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError:  # no Python source; what it is counts by its bytes
        return
    top = path.parent
    while (top / "__init__.py").is_file():
        top = top.parent
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (file for alias in node.names for file in _candidates([path.parent, top], alias.name))
        elif isinstance(node, ast.ImportFrom):
            base = [path.parent, top] if node.level == 0 else [path.parents[node.level - 1]]
            names = [node.module or ""] + [f"{node.module or ''}.{alias.name}".strip(".") for alias in node.names]
            yield from (file for name in names for file in _candidates(base, name))


def _candidates(folders: list[Path], name: str) -> Iterator[Path]:
    parts = [part for part in name.split(".") if part]
    for folder in dict.fromkeys(folders):
        for length in range(1, len(parts) + 1):
            target = folder.joinpath(*parts[:length])
            yield target.with_suffix(".py")
            yield target / "__init__.py"
