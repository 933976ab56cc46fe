"""The border to a person's code: whatever it raises becomes one line that says where it came from."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from torch import nn

from tda_backend.errors import OutOfMemory, TaskError, TDAError, ran_out_of_memory
from tda_backend.models.tasks.patience import patience
from tda_backend.models.tasks.threads import one_thread
from tda_backend.types import Task

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
"""What colours a text in a terminal."""


def one_line(error: BaseException) -> str:
    """Return ``Kind: first line of the message``."""
    text = next((line.strip() for line in _COLOURS.sub("", str(error)).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@contextlib.contextmanager
def persons_code(task: Task, what: str) -> Iterator[None]:
    """Run one call of a person's code, for a limited time; errors as :func:`blamed`.

    Raises:
        OutOfMemory: Memory ran out, on the device or on the host.
        TaskError: Anything else, ``sys.exit`` and a call that does not come back included; the original is its cause.
    """
    with blamed(task, what), patience(f'{what} of task "{task.name}"'):
        yield


@contextlib.contextmanager
def blamed(task: Task, what: str) -> Iterator[None]:
    """Run a person's code many times; an error that is not ours becomes a :class:`TaskError` that names ``what``.

    Raises:
        OutOfMemory: Memory ran out, on the device or on the host.
        TaskError: Anything else; the original is its cause.
    """
    try:
        yield
    except TDAError:
        raise
    except Exception as error:  # a person's code may raise anything; the cause stays attached
        if ran_out_of_memory(error):
            raise OutOfMemory(
                f'Memory ran out in {what} of task "{task.name}".',
                "Use a smaller model, batch size or number of examples.",
            ) from error
        raise TaskError(
            f'{what} of task "{task.name}" fails: {one_line(error)}', "Run `tda check` on the task, or --debug."
        ) from error


def built(task: Task, seed: int) -> nn.Module:
    """Return the model of a seed, whose gradients are dense: what embeddings call sparse is the same numbers.

    Raises:
        OutOfMemory: Memory ran out.
        TaskError: ``build_model`` fails, or returns something else than a module.
    """
    with persons_code(task, "build_model"), one_thread():
        model: object = task.build_model(seed)
    if not isinstance(model, nn.Module):
        raise TaskError(f'build_model of task "{task.name}" returns a {type(model).__name__}.', "Return an nn.Module.")
    for module in model.modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            module.sparse = False
    return model
