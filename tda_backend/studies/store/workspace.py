"""The folder that holds one catalogue with its artifacts, drop folder and job files."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shlex
import stat
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tda_backend.errors import MachineError, UsageError
from tda_backend.studies.store.durable import publish_file

DATABASE_VARIABLE = "TDA_DB"
DEFAULT_DATABASE = Path("workspace") / "catalogue.duckdb"


@dataclass(frozen=True)
class Workspace:
    """Paths beside one catalogue file.

    Attributes:
        catalogue: The DuckDB file, absolute.
        read_only: Whether whoever holds this object may change nothing there: no migration, nothing set aside.
    """

    catalogue: Path
    read_only: bool = False

    @classmethod
    def at(cls, db: str | Path | Workspace | None = None) -> Workspace:
        """Return the workspace of ``db``, of the environment variable TDA_DB, or ``./workspace/catalogue.duckdb``."""
        if isinstance(db, Workspace):
            return db
        path = Path(db or os.environ.get(DATABASE_VARIABLE) or DEFAULT_DATABASE).expanduser().absolute()
        if path.is_dir():
            raise UsageError(
                f"{path} is a folder.",
                f"Give the catalogue file, e.g. --db {shlex.quote(str(path / 'catalogue.duckdb'))}.",
            )
        return cls(path)

    @property
    def folder(self) -> Path:
        return self.catalogue.parent

    @property
    def snapshot(self) -> Path:
        """The copy that readers use while another process holds the catalogue."""
        return self.catalogue.with_name(self.catalogue.name + ".snapshot")

    @property
    def log(self) -> Path:
        """DuckDB's write-ahead log of the catalogue."""
        return self.catalogue.with_name(self.catalogue.name + ".wal")

    @property
    def artifacts(self) -> Path:
        return self.folder / "artifacts"

    @property
    def inbox(self) -> Path:
        return self.folder / "inbox"

    @property
    def jobs(self) -> Path:
        return self.folder / "jobs"

    @property
    def server_file(self) -> Path:
        """Written by the process that owns the catalogue for as long as it lives."""
        return self.folder / "server.json"

    def create(self) -> Workspace:
        """Make the folders and return this workspace."""
        with writing_to(self.folder):
            for folder in (self.folder, self.artifacts, self.inbox, self.jobs):
                folder.mkdir(parents=True, exist_ok=True)
        return self


@contextlib.contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Turn "no space" and "not allowed" into one clear error.

    Raises:
        MachineError: The disk is full, or ``folder`` cannot be written to.
    """
    try:
        yield
    except Exception as error:
        translated = as_disk_error(error, folder)
        if translated is None:
            raise
        raise translated from error


def as_disk_error(error: BaseException, folder: Path) -> MachineError | None:
    """Return the clear form of a disk error, or ``None`` if ``error`` is something else.

    Libraries wrap the system's error in types of their own, hence the look at the text.
    """
    number = error.errno if isinstance(error, OSError) else None
    text = str(error).lower()
    if number in (errno.ENOSPC, errno.EDQUOT) or "no space left" in text or "disk quota" in text:
        return MachineError(
            f"No space left on the disk that holds {folder}.",
            "Free some space (`tda studies` shows what each study uses, `tda rm STUDY` removes one), then run the same "
            "command again: finished steps are kept.",
        )
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return MachineError(f"{folder} cannot be written to ({error}).", "Give another place with --db FILE.")
    return None


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write ``content`` so that a reader sees the old file or the whole new one, never a part."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with writing_to(path.parent):
            temporary.write_text(json.dumps(content, default=str), encoding="utf-8")
            publish_file(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # on a read-only disk: it was never there
            temporary.unlink(missing_ok=True)


def overwrite_json(path: Path, content: Mapping[str, Any]) -> bool:
    """Write ``content`` over a file that is there, and return whether that went well.

    A full disk has no room for a second file, but the old one's own blocks can be used. For last words only: a reader
    may see a part.
    """
    try:
        with path.open("r+", encoding="utf-8") as file:
            file.write(json.dumps(content, default=str))
            file.truncate()
    except OSError:
        return False
    return True


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in ``path``, or ``None`` if there is no readable one."""
    try:
        return load_json(path)
    except OSError:
        return None


def load_json(path: Path) -> dict[str, Any] | None:
    """Return the object in ``path``, or ``None`` if there is no such file or no object in it.

    Raises:
        OSError: The file is there, but the system cannot read it now.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe or a device would be read for ever
            return None
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None
