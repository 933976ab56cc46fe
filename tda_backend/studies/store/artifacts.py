"""Content-addressed artifacts: one folder per finished step, written whole or not at all.

``artifacts/<hh>/<key>/manifest.json`` names the step, what it depended on, what it cost, and size and checksums of
every file and of itself. Everything is flushed to the disk before the folder appears by one atomic rename, so an
artifact that exists is complete.
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
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.torch import save_file
from torch import Tensor

from tda_backend.errors import ArtifactError, MachineError
from tda_backend.studies.store import faults
from tda_backend.studies.store.artifact import CHECKSUMS, Artifact
from tda_backend.studies.store.durable import publish_folder
from tda_backend.studies.store.quarantine import FOLDER as DAMAGED
from tda_backend.studies.store.quarantine import set_aside
from tda_backend.studies.store.verification import describe_file
from tda_backend.studies.store.workspace import load_json, writing_to

MANIFEST = "manifest.json"
FORMAT = 1
SEAL = "seal"
"""Field of the manifest with the checksum of all others; artifacts of earlier versions have none."""


def content_key(**parts: Any) -> str:
    """Return the SHA-256 of ``parts`` as canonical JSON: equal settings give equal keys on every machine."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def provisional_key(key: str) -> str:
    """Return where the result of a step lies that was computed without some of its inputs, because they failed.

    It is no content key: what lies there is computed anew in each run, until nothing is missing.
    """
    return content_key(provisional=key)


def sealed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest, as JSON has it, with its own checksum."""
    plain = json.loads(json.dumps({name: value for name, value in manifest.items() if name != SEAL}, default=str))
    return {**plain, SEAL: content_key(manifest=plain)}


def folder_bytes(folder: Path) -> int:
    """Return the size of the files in a folder; 0 if there is none."""
    return sum(path.stat().st_size for path in folder.glob("*") if path.is_file())


def _is_manifest(content: Mapping[str, Any], key: str) -> bool:
    """Return whether a manifest is whole, and that of ``key``."""
    if SEAL in content and sealed(content)[SEAL] != content[SEAL]:
        return False
    files = content.get("files")
    return (
        content.get("key") == key
        and isinstance(files, dict)
        and all(isinstance(entry, dict) and {"bytes", "sha256"} <= entry.keys() for entry in files.values())
        and {"step", "settings", "seconds", "finished"} <= content.keys()
    )


class DamagedManifestError(ArtifactError):
    """The manifest of an artifact is missing or damaged."""


class ArtifactWriter:
    """Collects the files of one artifact in a temporary folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.facts: dict[str, Any] = {}

    def array(self, name: str, values: np.ndarray | Tensor) -> None:
        """Store an array, C-ordered."""
        if isinstance(values, Tensor):
            values = values.cpu().numpy()
        np.save(self.folder / f"{name}.npy", np.ascontiguousarray(values), allow_pickle=False)

    def table(self, name: str, table: pa.Table | pd.DataFrame) -> None:
        """Store a table."""
        if isinstance(table, pd.DataFrame):
            table = pa.Table.from_pandas(table, preserve_index=False)
        pq.write_table(table, self.folder / f"{name}.parquet", compression="zstd")

    def tensors(self, name: str, state: Mapping[str, Tensor]) -> None:
        """Store a state dict (tied tensors are written out separately)."""
        save_file(
            {key: value.detach().cpu().clone().contiguous() for key, value in state.items()},
            str(self.folder / f"{name}.safetensors"),
        )

    def json(self, name: str, content: Mapping[str, Any]) -> None:
        """Store a JSON object."""
        (self.folder / f"{name}.json").write_text(json.dumps(content, indent=1))


class ArtifactStore:
    """The artifacts of one workspace.

    Args:
        folder: Where they lie.
        read_only: Whether damaged ones stay in their place.
    """

    def __init__(self, folder: Path, read_only: bool = False) -> None:
        self.folder = folder
        self._read_only = read_only

    def path(self, key: str) -> Path:
        """Return where the artifact ``key`` lies, or would lie.

        Raises:
            ArtifactError: It is no key: nothing that a file says may lead out of the folder.
        """
        if not (isinstance(key, str) and key.isascii() and key.isalnum()):
            raise ArtifactError(f"{str(key)[:80]!r} is no key of an artifact.", "Keys are letters and digits.")
        return self.folder / key[:2] / key

    def temporary(self, name: str) -> Path:
        """Return a folder of this process for work in progress; whoever clears leftovers removes it after its death."""
        return self.folder / "tmp" / f"{name}-{os.getpid()}-{uuid.uuid4().hex[:6]}"

    @property
    def damaged(self) -> Path:
        """Where damaged artifacts are set aside."""
        return self.folder / DAMAGED

    def set_aside_folders(self) -> list[Path]:
        """Return the damaged artifacts that were set aside."""
        return sorted(self.damaged.glob("*"))

    def has(self, key: str) -> bool:
        """Return whether the artifact ``key`` is complete."""
        return (self.path(key) / MANIFEST).is_file()

    def open(self, key: str) -> Artifact:
        """Return the artifact ``key``.

        Raises:
            ArtifactError: It is not there, or its manifest is damaged.
            MachineError: It cannot be read at the moment.
        """
        try:
            return self.peek(key)
        except DamagedManifestError as error:
            raise Artifact(key, self.path(key), {}, self._read_only).damaged(error.message.rstrip(".")) from error

    def peek(self, key: str, folder: Path | None = None) -> Artifact:
        """Return the artifact ``key`` as :meth:`open` does, but move nothing where its manifest is damaged.

        Args:
            key: Which artifact.
            folder: Where it lies; ``None``: in its place.

        Raises:
            ArtifactError: It is not there, was written by a newer version, or its manifest is damaged.
            MachineError: It cannot be read at the moment, which is no proof of damage.
        """
        folder = folder or self.path(key)
        try:
            manifest = load_json(folder / MANIFEST)
        except OSError as error:
            raise MachineError(
                f"The manifest of artifact {key[:12]} cannot be read ({error.strerror or error}).",
                "Check the disk and the limit of open files (ulimit -n).",
            ) from error
        if manifest is None and not folder.is_dir():
            raise ArtifactError(
                f"Artifact {key[:12]} is missing from {self.folder}.", "Run the study again to make it."
            )
        if manifest is None or not _is_manifest(manifest, key):
            raise DamagedManifestError(f"The manifest of artifact {key[:12]} is damaged.")
        artifact = Artifact(key, folder, manifest, self._read_only)
        if manifest.get("format", FORMAT) > FORMAT:
            raise ArtifactError(
                f"{artifact.describe()} was written by a newer version, in form {manifest['format']}.",
                "Upgrade tda-dashboard to read it.",
            )
        return artifact

    def usable(self, key: str, thorough: bool = False) -> bool:
        """Return whether ``key`` exists and is not damaged; a damaged one is set aside first.

        Args:
            key: Which artifact.
            thorough: Verify every checksum that this process has not verified yet; else look at all sizes.
        """
        if not self.path(key).exists():
            return False
        try:
            problems = self.open(key).problems(thorough)
        except ArtifactError:
            return False
        if problems:
            self.set_aside(key)
        return not problems

    def set_aside(self, key: str) -> Path:
        """Move a damaged artifact to :attr:`damaged` and return its new place.

        Raises:
            MachineError: The folder cannot be written to.
        """
        return self.set_aside_folder(self.path(key))

    def set_aside_folder(self, folder: Path) -> Path:
        """Move a folder to :attr:`damaged`, whatever its name, and return its new place.

        Raises:
            MachineError: The folder cannot be written to.
        """
        where = set_aside(folder)
        if where is None:
            raise MachineError(
                f"Artifact {folder.name[:12]} is damaged and cannot be set aside: {self.folder} cannot be written to.",
                "Run the study where the folder can be written to.",
            )
        return where

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
        temporary = self.temporary(key[:12])
        started = time.perf_counter()
        try:
            with writing_to(self.folder):
                temporary.mkdir(parents=True)
                writer = ArtifactWriter(temporary)
                yield writer
                files = {path.name: describe_file(path) for path in sorted(temporary.iterdir())}
                manifest = {
                    "format": FORMAT,
                    "key": key,
                    "step": step,
                    "settings": settings,
                    "inputs": inputs,
                    "files": {name: {"bytes": each.bytes, "sha256": each.sha256} for name, each in files.items()},
                    CHECKSUMS: {name: each.blocks for name, each in files.items()},
                    "finished": time.time(),
                    "seconds": time.perf_counter() - started,
                    **(facts or {}),
                    **writer.facts,
                }
                (temporary / MANIFEST).write_text(json.dumps(sealed(manifest)), encoding="utf-8")
                faults.reach(step, "written")
                try:
                    publish_folder(temporary, self.path(key))
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
        size = folder_bytes(folder)
        leaving = self.temporary(key[:12])
        try:  # whoever reads it meanwhile finds it whole or gone, never half
            leaving.parent.mkdir(parents=True, exist_ok=True)
            os.rename(folder, leaving)
        except OSError:
            leaving = folder
        shutil.rmtree(leaving, ignore_errors=True)
        return size

    def clear_leftovers(self) -> int:
        """Remove temporary folders of writers that no longer live; return how many."""
        count = 0
        for folder in (self.folder / "tmp").glob("*"):
            owner = folder.name.split("-")[1] if folder.name.count("-") >= 2 else ""
            if not (owner.isdigit() and psutil.pid_exists(int(owner))):
                shutil.rmtree(folder, ignore_errors=True)
                count += 1
        return count
