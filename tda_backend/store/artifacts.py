"""Content-addressed artifacts: one folder per finished step, written whole or not at all.

``artifacts/<hh>/<key>/manifest.json`` names the step, what it depended on, what it cost, and size and SHA-256 of every
file. The folder appears by one atomic rename, so an artifact that exists is complete.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tda_backend.errors import ArtifactError
from tda_backend.store import faults
from tda_backend.store.workspace import read_json, write_json, writing_to

MANIFEST = "manifest.json"
FORMAT = 1
SMALL = 1 << 18  # files up to this many bytes are always checked by checksum, larger ones by size and header
RECOMPUTE = "Run the study again: the damaged artifact is moved aside and recomputed."


def content_key(**parts: Any) -> str:
    """Return the SHA-256 of ``parts`` as canonical JSON: equal settings give equal keys on every machine."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def provisional_key(key: str) -> str:
    """Return where the result of a step lies that was computed without some of its inputs, because they failed.

    It is no content key: what lies there is computed anew in each run, until nothing is missing.
    """
    return content_key(provisional=key)


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Artifact:
    """A finished artifact.

    Attributes:
        key: Its content key.
        folder: Where it lies.
        manifest: Step, settings, inputs, cost and files.
    """

    key: str
    folder: Path
    manifest: Mapping[str, Any]

    @property
    def step(self) -> str:
        return str(self.manifest["step"])

    @property
    def num_bytes(self) -> int:
        return sum(entry["bytes"] for entry in self.manifest["files"].values())

    def file(self, name: str) -> Path:
        """Return the path of a file that the manifest lists.

        Raises:
            ArtifactError: The manifest does not list it, or the file is missing or of another size.
        """
        entry = self.manifest["files"].get(name)
        path = self.folder / name
        size = path.stat().st_size if path.is_file() else None
        if entry is None or size != entry["bytes"]:
            state = "not listed" if entry is None else "missing" if size is None else f"{size} bytes long"
            expected = f", expected {entry['bytes']}" if entry else ""
            raise ArtifactError(f"{name} of {self.describe()} is {state}{expected}.", RECOMPUTE)
        return path

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
            raise ArtifactError(f"{path.name} of {self.describe()} is not a readable array.", RECOMPUTE) from error

    def arrays(self) -> dict[str, np.ndarray]:
        """Return every array of this artifact by name."""
        names = [name.removesuffix(".npy") for name in self.manifest["files"] if name.endswith(".npy")]
        return {name: self.array(name) for name in names}

    def table(self, name: str) -> pa.Table:
        """Return a stored table."""
        path = self.file(f"{name}.parquet")
        try:
            return pq.read_table(path)
        except (pa.ArrowException, OSError) as error:
            raise ArtifactError(f"{path.name} of {self.describe()} is not a readable table.", RECOMPUTE) from error

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Return a stored state dict."""
        path = self.file(f"{name}.safetensors")
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ArtifactError(f"{path.name} of {self.describe()} is not readable.", RECOMPUTE) from error

    def problems(self, thorough: bool) -> list[str]:
        """Return what is wrong with the files; ``thorough`` checks every checksum, else headers and small files."""
        found = []
        for name, entry in self.manifest["files"].items():
            try:
                path = self.file(name)
                if thorough or entry["bytes"] <= SMALL:
                    if _checksum(path) != entry["sha256"]:
                        found.append(f"{name} does not match its checksum")
                elif name.endswith(".npy"):
                    self.array(name.removesuffix(".npy"))
            except ArtifactError as error:
                found.append(error.message)
        return found


class ArtifactWriter:
    """Collects the files of one artifact in a temporary folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.facts: dict[str, Any] = {}

    def array(self, name: str, values: np.ndarray | Tensor) -> None:
        """Store an array, C-ordered."""
        if isinstance(values, Tensor):
            values = values.numpy()
        np.save(self.folder / f"{name}.npy", np.ascontiguousarray(values), allow_pickle=False)

    def table(self, name: str, table: pa.Table | pd.DataFrame) -> None:
        """Store a table."""
        if isinstance(table, pd.DataFrame):
            table = pa.Table.from_pandas(table, preserve_index=False)
        pq.write_table(table, self.folder / f"{name}.parquet", compression="zstd")

    def tensors(self, name: str, state: Mapping[str, Tensor]) -> None:
        """Store a state dict (tied tensors are written out separately)."""
        save_file(
            {key: value.detach().clone().contiguous() for key, value in state.items()},
            str(self.folder / f"{name}.safetensors"),
        )

    def json(self, name: str, content: Mapping[str, Any]) -> None:
        """Store a JSON object."""
        (self.folder / f"{name}.json").write_text(json.dumps(content, indent=1))


class ArtifactStore:
    """The artifacts of one workspace."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, key: str) -> Path:
        """Return where the artifact ``key`` lies, or would lie."""
        return self.folder / key[:2] / key

    def has(self, key: str) -> bool:
        """Return whether the artifact ``key`` is complete."""
        return (self.path(key) / MANIFEST).is_file()

    def open(self, key: str) -> Artifact:
        """Return the artifact ``key``.

        Raises:
            ArtifactError: It is not there, or its manifest cannot be read.
        """
        folder = self.path(key)
        if not folder.is_dir():
            raise ArtifactError(
                f"Artifact {key[:12]} is missing from {self.folder}.", "Run the study again to make it."
            )
        manifest = read_json(folder / MANIFEST)
        if manifest is None or manifest.get("key") != key or not isinstance(manifest.get("files"), dict):
            raise ArtifactError(f"The manifest of artifact {key[:12]} cannot be read.", RECOMPUTE)
        return Artifact(key, folder, manifest)

    def usable(self, key: str) -> bool:
        """Return whether ``key`` exists and passes the quick checks; a damaged one is moved aside first."""
        if not self.path(key).exists():
            return False
        try:
            problems = self.open(key).problems(thorough=False)
        except ArtifactError as error:
            problems = [error.message]
        if problems:
            self.set_aside(key)
        return not problems

    def set_aside(self, key: str) -> Path:
        """Move a damaged artifact to ``artifacts/damaged`` and return its new place."""
        target = self.folder / "damaged" / f"{key}-{uuid.uuid4().hex[:6]}"
        with writing_to(self.folder):
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(self.path(key), target)
        return target

    @contextlib.contextmanager
    def writing(
        self,
        key: str,
        step: str,
        settings: Mapping[str, Any],
        inputs: list[str],
        facts: Mapping[str, Any] | None = None,
    ) -> Iterator[ArtifactWriter]:
        """Yield a writer; on leaving without an error the artifact appears under ``key``, whole.

        Raises:
            MachineError: The disk is full or cannot be written to; what was written so far is removed.
        """
        temporary = self.folder / "tmp" / f"{key[:12]}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        started = time.perf_counter()
        try:
            with writing_to(self.folder):
                temporary.mkdir(parents=True)
                writer = ArtifactWriter(temporary)
                yield writer
                files = {
                    path.name: {"bytes": path.stat().st_size, "sha256": _checksum(path)}
                    for path in sorted(temporary.iterdir())
                }
                manifest = {
                    "format": FORMAT, "key": key, "step": step, "settings": settings, "inputs": inputs, "files": files,
                    "finished": time.time(), "seconds": time.perf_counter() - started,
                    **(facts or {}), **writer.facts,
                }  # fmt: skip
                write_json(temporary / MANIFEST, manifest)
                faults.reach(step, "written")
                target = self.path(key)
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.rename(temporary, target)
                except OSError:
                    if not self.has(key):  # another run may have finished the same step first: same key, same content
                        raise
                faults.reach(step, "renamed")
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def all_keys(self) -> list[str]:
        """Return the keys of all artifacts, sorted."""
        return sorted(path.parent.name for path in self.folder.glob(f"??/*/{MANIFEST}"))

    def remove(self, key: str) -> int:
        """Remove an artifact and return how many bytes that freed."""
        folder = self.path(key)
        size = sum(path.stat().st_size for path in folder.iterdir()) if folder.is_dir() else 0
        shutil.rmtree(folder, ignore_errors=True)
        return size

    def clear_leftovers(self) -> int:
        """Remove temporary folders of writers that no longer live; return how many."""
        import psutil

        count = 0
        for folder in (self.folder / "tmp").glob("*"):
            owner = folder.name.split("-")[1] if folder.name.count("-") >= 2 else ""
            if not (owner.isdigit() and psutil.pid_exists(int(owner))):
                shutil.rmtree(folder, ignore_errors=True)
                count += 1
        return count
