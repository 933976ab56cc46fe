"""The inbox: small JSON files, *drops*, by which a run tells whoever may write to the catalogue what is finished."""

from __future__ import annotations

import contextlib
import dataclasses
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from tda_backend.errors import ArtifactError, MachineError, TDAError
from tda_backend.studies.store.durable import flush_folder
from tda_backend.studies.store.workspace import Workspace, load_json, read_json, write_json
from tda_backend.version import __version__

FORMAT = 1
_DIGITS = 20
REFUSED = ".refused"
_REASON = ".reason"
_MAX_BYTES = 1 << 26


@dataclass(frozen=True)
class _Content:
    """What a drop says; its fields are the JSON object's."""

    KIND: ClassVar[str]

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Self:
        """Return the drop that a JSON object holds.

        Raises:
            ArtifactError: It lacks a field.
        """
        names = {each.name for each in dataclasses.fields(cls)}
        try:
            return cls(**{name: value for name, value in content.items() if name in names and value is not None})
        except TypeError as error:
            raise ArtifactError(f"A drop of kind {cls.KIND} is not complete: {error}.") from error

    def json(self) -> dict[str, Any]:
        """Return the JSON object."""
        return {"kind": self.KIND, **{each.name: getattr(self, each.name) for each in dataclasses.fields(self)}}


@dataclass(frozen=True)
class FinishedStep(_Content):
    """A step of a study whose artifact is complete.

    Attributes:
        study_id: Of which study.
        key: Of the artifact.
        label: The step in words.
        context: What the artifact does not say: columns of its rows (such as ``seed_index``, or those under
            ``columns``), and what they replace.
    """

    KIND: ClassVar[str] = "step"
    study_id: str
    key: str
    label: str
    context: Mapping[str, Any] = field(default_factory=dict)

    @property
    def provisional(self) -> bool:
        """Whether it was computed without some of its inputs, so that it may come again, with others."""
        return "missing" in self.context

    @property
    def replaces(self) -> Mapping[str, Mapping[str, Any]] | None:
        """Rows that it replaces, by table and columns; ``None``: none."""
        return self.context.get("replaces")


@dataclass(frozen=True)
class EndedJob(_Content):
    """A run that ended: a row of ``jobs``.

    Attributes:
        study_id: What it computed.
        job_id: Which run.
        status: How it ended.
        started: Seconds since 1970.
        finished: Seconds since 1970.
        seconds: Wall time.
        steps_computed: How many; ``None``: not known.
        steps_cached: How many; ``None``: not known.
        message: The reason of a failure.
    """

    KIND: ClassVar[str] = "job"
    study_id: str
    job_id: str
    status: str
    started: float
    finished: float
    seconds: float | None = None
    steps_computed: int | None = None
    steps_cached: int | None = None
    message: str | None = None


def write_drop(workspace: Workspace, drop: FinishedStep | EndedJob) -> Path:
    """Put a drop into the inbox and return its path, see :func:`write_drops`."""
    return write_drops(workspace, [drop])[0]


def write_drops(workspace: Workspace, drops: Iterable[FinishedStep | EndedJob]) -> list[Path]:
    """Put drops into the inbox and return their paths.

    Names sort in order of writing, even where the clock has been put back. The inbox is looked at once.
    """
    last = max((path.name[:_DIGITS] for path in pending_drops(workspace)), default="")
    number = int(last) if last.isdecimal() else 0
    paths = []
    for drop in drops:
        number = max(time.time_ns(), number + 1)
        paths.append(workspace.inbox / f"{number:0{_DIGITS}d}-{uuid.uuid4().hex[:6]}.json")
        write_json(paths[-1], {"format": FORMAT, "program": __version__, **drop.json()})
    return paths


def pending_drops(workspace: Workspace) -> list[Path]:
    """Return the drops that wait, oldest first."""
    return sorted(path for path in workspace.inbox.glob("*.json") if not path.name.startswith("."))


def read_drop(path: Path) -> FinishedStep | EndedJob:
    """Return what a file of the inbox says.

    Raises:
        ArtifactError: It is no drop, is of no known kind, or was written by a newer version.
        MachineError: It cannot be read at the moment.
    """
    try:
        if path.is_file() and path.stat().st_size > _MAX_BYTES:
            raise ArtifactError(f"The drop {path.name} is larger than {_MAX_BYTES} bytes.")
        content = load_json(path)
    except OSError as error:
        raise MachineError(
            f"The drop {path.name} cannot be read ({error.strerror or error}).",
            "Check its permissions, the disk and the limit of open files (ulimit -n).",
        ) from error
    if content is None:
        raise ArtifactError(f"The drop {path.name} cannot be read: it is no JSON object.")
    if content.get("format", FORMAT) != FORMAT:
        raise ArtifactError(
            f"The drop {path.name} is in form {str(content['format'])[:20]}, of tda-dashboard {_program(content)}; "
            f"this is {__version__}, which knows form {FORMAT}."
        )
    for each in (FinishedStep, EndedJob):
        if content.get("kind") == each.KIND:
            return each.read(content)
    raise ArtifactError(
        f"The drop {path.name} has no known kind: {str(content.get('kind'))[:80]!r}, of tda-dashboard "
        f"{_program(content)}; this is {__version__}."
    )


def _program(content: Mapping[str, Any]) -> str:
    return str(content.get("program", "of an unknown version"))[:40]


@dataclass(frozen=True)
class RefusedDrop:
    """A drop that could not be taken in.

    Attributes:
        path: Where it lies.
        reason: Why; empty where that could not be written.
    """

    path: Path
    reason: str


def refuse(path: Path, error: BaseException) -> None:
    """Set a drop aside with the reason beside it.

    Raises:
        OSError: It cannot be moved.
    """
    reason = error.message if isinstance(error, TDAError) else f"{type(error).__name__}: {error}"
    first = (reason.strip().splitlines() or [type(error).__name__])[0][:500]
    with contextlib.suppress(TDAError, OSError):  # a full disk must not keep a bad drop in the way of the others
        write_json(path.with_suffix(_REASON), {"reason": first, "refused": time.time(), "program": __version__})
    path.replace(path.with_suffix(REFUSED))
    flush_folder(path.parent)


def refused_drops(workspace: Workspace) -> list[RefusedDrop]:
    """Return the drops that were set aside, oldest first, each with its reason."""
    return [
        RefusedDrop(path, str((read_json(path.with_suffix(_REASON)) or {}).get("reason", "")))
        for path in sorted(workspace.inbox.glob(f"*{REFUSED}"))
    ]


def offer_again(drop: RefusedDrop) -> Path:
    """Put a refused drop back among those that wait and return its path."""
    path = drop.path.with_suffix(".json")
    drop.path.replace(path)
    drop.path.with_suffix(_REASON).unlink(missing_ok=True)
    return path
