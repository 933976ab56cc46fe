"""A finished artifact as it is read: its manifest and its files."""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tda_backend.errors import ArtifactError, MachineError, TDAError
from tda_backend.studies.store.quarantine import set_aside
from tda_backend.studies.store.verification import Identity, StoredFile, verify
from tda_backend.studies.store.workspace import load_json

SMALL = 1 << 18  # arrays up to this many bytes are read, larger ones mapped
REMARKS = "remarks"
"""The fact that says what is worth knowing of how an artifact was computed, a list of sentences."""
CHECKSUMS = "crc32"
"""Field of the manifest: by file, the checksum of each of its blocks."""
RECOMPUTE = "Run the study again: it is computed anew."


@dataclass(frozen=True)
class Artifact:
    """A finished artifact.

    Attributes:
        key: Its content key.
        folder: Where it lies.
        manifest: Step, settings, inputs, cost and files.
        read_only: Whether it stays in its place even where it is damaged.
    """

    key: str
    folder: Path
    manifest: Mapping[str, Any]
    read_only: bool = False

    @property
    def step(self) -> str:
        """Name of the kind of step that wrote it."""
        return str(self.manifest["step"])

    @property
    def settings(self) -> Mapping[str, Any]:
        """Settings of that step."""
        return self.manifest["settings"]

    @property
    def inputs(self) -> Sequence[str]:
        """Keys of the artifacts that it was made from."""
        return self.manifest.get("inputs", ())

    @property
    def seconds(self) -> float:
        """How long the step took."""
        return float(self.manifest["seconds"])

    @property
    def finished(self) -> float:
        """When it was finished, in seconds since 1970."""
        return float(self.manifest["finished"])

    @cached_property
    def files(self) -> Mapping[str, StoredFile]:
        """Every file by name."""
        blocks = self.manifest.get(CHECKSUMS, {})
        return {
            name: StoredFile(entry["bytes"], entry["sha256"], blocks.get(name))
            for name, entry in self.manifest["files"].items()
        }

    @property
    def num_bytes(self) -> int:
        """Size of all files."""
        return sum(file.bytes for file in self.files.values())

    def has(self, name: str) -> bool:
        """Return whether it holds a file of this name."""
        return name in self.files

    def fact(self, name: str, default: Any = None) -> Any:
        """Return a fact that the step noted about its result, or ``default``."""
        return self.manifest.get(name, default)

    @property
    def remarks(self) -> list[str]:
        """What the step noted about how it was computed: what a precision cost, where memory ran out."""
        return self.fact(REMARKS, [])

    def file(self, name: str) -> Path:
        """Return the path of a file that the manifest lists, verified against its checksum.

        A damaged artifact is set aside: nothing reads it again, and the next run computes it anew.

        Raises:
            ArtifactError: The manifest does not list it, or the file is missing or damaged.
            MachineError: It cannot be read at the moment.
        """
        if name not in self.files:
            raise ArtifactError(f"{name} of {self.describe()} is not listed.", RECOMPUTE)
        problem = self._problem(name)
        if problem:
            raise self.damaged(f"{name} of {self.describe()} {problem}")
        return self.folder / name

    def _problem(self, name: str) -> str:
        try:
            return verify(self.folder / name, self.files[name])
        except OSError as error:
            raise self._unreadable(name, error) from error

    def _unreadable(self, name: str, error: OSError) -> MachineError:
        return MachineError(
            f"{name} of {self.describe()} cannot be read ({error.strerror or error}).",
            "Check the disk or the network folder, the file's permissions and the limit of open files (ulimit -n).",
        )

    def _broken(self, name: str, what: str, error: Exception) -> TDAError:
        """Return the error of a file that a library cannot read; where the system is to blame, nothing is moved."""
        if isinstance(error, OSError) and error.errno not in (None, 0, errno.ENOENT):
            return self._unreadable(name, error)
        return self.damaged(f"{name} of {self.describe()} is not {what}")

    def _size(self, name: str) -> int | None:
        try:
            identity = Identity.of(self.folder / name)
        except OSError as error:
            raise self._unreadable(name, error) from error
        return None if identity is None else identity.size

    def damaged(self, found: str) -> ArtifactError:
        """Set this artifact aside, unless it is only read here, and return the error that says so."""
        if self.read_only:
            return ArtifactError(
                f"{found}. It stays in {self.folder}, which is only read here.",
                "Whoever may write there can compute it anew: run the study again.",
            )
        where = set_aside(self.folder)
        if where is None:
            return ArtifactError(
                f"{found}. It cannot be set aside: {self.folder} cannot be written to.",
                "Run the study again where the folder can be written to: it is computed anew.",
            )
        return ArtifactError(f"{found}. It was set aside ({where}).", RECOMPUTE)

    def describe(self) -> str:
        """Return step name and short key, for messages."""
        return f"artifact {self.step} {self.key[:12]}"

    def array(self, name: str, mmap: bool = True) -> np.ndarray:
        """Return a stored array; by default a private (copy-on-write) memory map of it."""
        path = self.file(f"{name}.npy")
        mapped = mmap and path.stat().st_size > SMALL  # empty arrays cannot be mapped, small ones gain nothing
        try:
            return np.load(path, mmap_mode="c" if mapped else None, allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise self._broken(path.name, "a readable array", error) from error

    def arrays(self) -> dict[str, np.ndarray]:
        """Return every array of this artifact by name."""
        names = [name.removesuffix(".npy") for name in self.files if name.endswith(".npy")]
        return {name: self.array(name) for name in names}

    def table(self, name: str) -> pa.Table:
        """Return a stored table."""
        path = self.file(f"{name}.parquet")
        try:
            return pq.read_table(path)
        except (pa.ArrowException, OSError) as error:
            raise self._broken(path.name, "a readable table", error) from error

    def json(self, name: str) -> dict[str, Any] | None:
        """Return a stored JSON object; ``None`` if there is none in the file."""
        path = self.file(f"{name}.json")
        try:
            return load_json(path)
        except OSError as error:
            raise self._unreadable(path.name, error) from error

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Return a stored state dict."""
        path = self.file(f"{name}.safetensors")
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise self._broken(path.name, "readable", error) from error

    def problems(self, thorough: bool) -> list[str]:
        """Return what is wrong with the files.

        Args:
            thorough: Verify every checksum that this process has not verified yet; else only look at all sizes.

        Raises:
            MachineError: A file cannot be read at the moment.
        """
        found = []
        for name, entry in self.files.items():
            if thorough:
                problem = self._problem(name)
            else:
                size = self._size(name)
                problem = "" if size == entry.bytes else "is missing" if size is None else f"is {size} bytes long"
            if problem:
                found.append(f"{name} {problem}")
        return found


def stored_values(artifact: Artifact) -> dict[str, np.ndarray]:
    """Return every number, text and flag that an artifact holds: arrays, columns of tables, tensors of state dicts."""
    found: dict[str, np.ndarray] = {}
    for file in artifact.files:
        name, _, kind = file.rpartition(".")
        if kind == "npy":
            found[file] = artifact.array(name)
        elif kind == "parquet":
            table = artifact.table(name)
            found |= {f"{file}: {column}": _flat(table.column(column)) for column in table.column_names}
        elif kind == "safetensors":
            found |= {f"{file}: {key}": value.numpy() for key, value in artifact.tensors(name).items()}
    return found


def _flat(column: pa.ChunkedArray) -> np.ndarray:
    """Return the values of a column, those of lists one after the other."""
    values = column.combine_chunks()
    while pa.types.is_list(values.type):
        values = values.flatten()
    return values.to_numpy(zero_copy_only=False)
