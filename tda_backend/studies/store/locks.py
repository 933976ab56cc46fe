"""Who may plan and who may remove: a run that decides what is finished, and ``tda rm``, never at the same time."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator

from tda_backend.errors import UsageError
from tda_backend.studies.store.workspace import Workspace, writing_to

try:
    import fcntl
except ImportError:  # a system without locks of this kind
    fcntl = None

POLL_SECONDS, PATIENCE_SECONDS = 0.1, 10.0
WITHOUT_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP}
"""What file systems say that have no locks of this kind: there, runs and removals go on without."""


class Planning:
    """A run's hold on what is stored, from before it looks what is finished until its record says what it needs."""

    def __init__(self, workspace: Workspace) -> None:
        self._descriptor: int | None = _open(workspace)
        _lock(self._descriptor, alone=False)  # waits for a removal to end

    def close(self) -> None:
        """Let go; once is enough, and more does no harm."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


@contextlib.contextmanager
def removing(workspace: Workspace, patience: float | None = None) -> Iterator[None]:
    """Let no run begin to plan within the block.

    Args:
        workspace: Whose artifacts are removed.
        patience: Seconds to wait for runs that are planning; default: ten.

    Raises:
        UsageError: A run goes on planning.
    """
    descriptor = _open(workspace)
    try:
        deadline = time.monotonic() + (PATIENCE_SECONDS if patience is None else patience)
        while True:
            try:
                _lock(descriptor, alone=True)
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise UsageError(
                        "A run is starting and has not said yet what it needs.", "Wait a little, or cancel it."
                    ) from error
                time.sleep(POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, alone: bool) -> None:
    """Take a lock: alone and at once, or beside others and when whoever is alone has ended.

    Raises:
        OSError: It cannot be had at once.
    """
    if fcntl is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB if alone else fcntl.LOCK_SH)
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise


def _open(workspace: Workspace) -> int:
    with writing_to(workspace.folder):
        return os.open(workspace.create().folder / ".planning.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
