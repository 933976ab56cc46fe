"""The border to a person's code: whatever it raises becomes one line that says where it came from."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from tda_backend.errors import MachineError, TaskError, TDAError
from tda_backend.types import Task


def one_line(error: BaseException) -> str:
    """Return ``Kind: first line of the message``."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@contextlib.contextmanager
def persons_code(task: Task, what: str) -> Iterator[None]:
    """Run a person's code; an error that is not ours becomes a :class:`TaskError` that names ``what``.

    Raises:
        MachineError: Memory ran out, on the device or on the host.
        TaskError: Anything else; the original is its cause.
    """
    try:
        yield
    except TDAError:
        raise
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise MachineError(
            f'Memory ran out in {what} of task "{task.name}".', "Use a smaller model, batch size or number of examples."
        ) from error
    except Exception as error:  # a person's code may raise anything; the cause stays attached
        raise TaskError(
            f'{what} of task "{task.name}" fails: {one_line(error)}', "Run `tda check` on the task, or --debug."
        ) from error
