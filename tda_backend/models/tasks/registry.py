"""From what a person writes after ``--task`` to a :class:`Task`."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType

from tda_backend.errors import TaskError, TDAError, UsageError
from tda_backend.models.tasks.built_in import BUILT_IN
from tda_backend.models.tasks.contract import one_line
from tda_backend.models.tasks.patience import in_time, patience
from tda_backend.models.tasks.settings import training_settings
from tda_backend.types import Task

_SPEC, _FOLDER = "_tda_spec", "_tda_folder"  # kept on the task itself: a task may be an unhashable dataclass
_FORMS = "Write package.module:factory or path/to/file.py:factory; the factory takes no argument."


def task_spec(task: Task) -> str | None:
    """Return the text from which another process can load ``task`` again, or ``None`` for a task made by hand."""
    return vars(task).get(_SPEC)


def task_folder(task: Task) -> str | None:
    """Return the folder that a ``package.module:factory`` of ``task`` was looked up in first, else ``None``."""
    return vars(task).get(_FOLDER)


def load_task(spec: str, folder: str | Path | None = None) -> Task:
    """Return the task named by ``spec``: a built-in name, ``package.module:factory`` or ``path/to/file.py:factory``.

    Args:
        spec: What to load.
        folder: Where modules are looked up before the rest of the path; default: the current folder, which a
            console script, unlike ``python -m``, does not have on its path.

    Raises:
        UsageError: The name or the form is unknown.
        TaskError: The module does not import, the factory is missing or fails, or its result is not a usable Task.
    """
    if spec in BUILT_IN:
        task = BUILT_IN[spec]()
        object.__setattr__(task, _SPEC, spec)
        return task
    # The last colon separates: a Windows path has one of its own.
    where, colon, name = spec.rpartition(":")
    if spec.endswith(".py"):
        raise UsageError(
            f'"{spec}" names a file, not what in it makes the task.', f"Write {spec}:factory; it takes no argument."
        )
    if not colon or not where or not name:
        guess = get_close_matches(spec, BUILT_IN, 1)
        meant = f' Did you mean "{guess[0]}"?' if guess else ""
        raise UsageError(
            f'There is no built-in task "{spec}".{meant}', f"Built-in tasks: {', '.join(sorted(BUILT_IN))}. {_FORMS}"
        )
    if where.endswith(".py") or "/" in where or "\\" in where:
        path = Path(where).expanduser().resolve()
        module, resolved = _import_file(path), f"{path}:{name}"
        task = _make(module, name, spec)
    else:
        start, resolved = Path(folder or Path.cwd()).resolve(), spec
        with _folder_first(start):
            module = _import_module(where)
            task = _make(module, name, spec)
        object.__setattr__(task, _FOLDER, str(start))
    object.__setattr__(task, _SPEC, resolved)
    return task


@contextlib.contextmanager
def _folder_first(folder: Path) -> Iterator[None]:
    """Let a task import its neighbours, without leaving its folder on the path for the rest of the program."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder))


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise TaskError(f"There is no task file {path}.", _FORMS)
    # Named by path and content: an edited file is loaded afresh, and inspect.getsource finds the right module.
    digest = hashlib.sha256(str(path).encode() + b"\0" + path.read_bytes()).hexdigest()[:16]
    name = f"tda_task_{re.sub(r'[^0-9A-Za-z_]', '_', path.stem)}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    location = importlib.util.spec_from_file_location(name, path)
    if location is None or location.loader is None:
        raise TaskError(f"{path} is not a Python file.", _FORMS)
    module = importlib.util.module_from_spec(location)
    sys.modules[name] = module
    try:
        with _folder_first(path.parent), in_time(f"Importing {path}"):
            location.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, TDAError) or not isinstance(error, Exception | SystemExit):
            raise
        raise _import_failure(str(path), error) from error
    return module


def _import_module(name: str) -> ModuleType:
    importlib.invalidate_caches()  # the file may have been written a moment ago
    try:
        with in_time(f"Importing {name}"):
            return importlib.import_module(name)
    except TDAError:
        raise
    except (Exception, SystemExit) as error:  # a person's module may raise anything
        raise _import_failure(name, error) from error


def _import_failure(where: str, error: BaseException) -> TaskError:
    return TaskError(
        f"The task's code {where} fails to import: {one_line(error)}{_line_of(where, error)}",
        "Run the file with python to see the whole traceback.",
    )


def _line_of(where: str, error: BaseException) -> str:
    """Return `` (line N)`` for the deepest frame of the traceback that lies in the task's own file."""
    if isinstance(error, SyntaxError) and error.lineno:
        return f" (line {error.lineno})"
    line, frame = None, error.__traceback__
    while frame is not None:
        if frame.tb_frame.f_code.co_filename == where:
            line = frame.tb_lineno
        frame = frame.tb_next
    return f" (line {line})" if line else ""


def _make(module: ModuleType, name: str, spec: str) -> Task:
    factory = getattr(module, name, None)
    if factory is None:
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        own = [key for key in public if getattr(vars(module)[key], "__module__", "") == module.__name__]
        raise TaskError(f'"{spec}": the module has no "{name}".', f"It offers: {', '.join(sorted(own)) or 'nothing'}.")
    try:
        with patience(f'The factory "{spec}"'):
            task = factory() if callable(factory) else factory
    except TDAError:
        raise
    except Exception as error:  # a person's factory may raise anything
        raise TaskError(
            f'The factory "{spec}" fails: {one_line(error)}{_line_of(str(getattr(module, "__file__", "")), error)}',
            "It must return a Task when called without an argument.",
        ) from error
    if not isinstance(task, Task):
        what = f"the class {task.__name__}" if isinstance(task, type) else f"a {type(task).__name__}"
        raise TaskError(
            f'"{spec}" returned {what}, not a Task.',
            "Subclass tda_backend.models.tasks.ClassificationTask (or tda_backend.types.Task), and return an instance.",
        )
    identifier = getattr(task, "name", None)
    if not isinstance(identifier, str) or not re.fullmatch(r"[a-z0-9-]+", identifier):
        raise TaskError(f'"{spec}" has the name {identifier!r}.', "Use small letters, digits and hyphens: [a-z0-9-]+.")
    if task.measurement_sign not in (1, -1):
        raise TaskError(
            f'measurement_sign of "{identifier}" is {task.measurement_sign!r}.', "+1: larger is better; −1: smaller."
        )
    if task.training is None and not task.checkpoint_files:
        raise TaskError(
            f'Task "{identifier}" has neither training settings nor checkpoint_files.',
            "Give training = TrainingSettings(…) to train it here, or checkpoint_files of a trained model.",
        )
    if task.training is not None:
        training_settings(task)
    return task
