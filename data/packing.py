"""What the scripts that make the shipped files share: npz files whose bytes depend on the arrays alone, checksums."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write a compressed npz whose bytes depend on the arrays alone (no time stamps)."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            archive.writestr(info, buffer.getvalue(), zipfile.ZIP_DEFLATED, 9)


def ship(name: str, arrays: dict[str, np.ndarray]) -> None:
    """Write ``name`` beside this file, note its SHA-256 in ``checksums.json`` and say so."""
    write_npz(HERE / name, arrays)
    _note(name)


def ship_bytes(name: str, content: bytes) -> None:
    """Write ``name`` with these bytes; as :func:`ship`."""
    (HERE / name).write_bytes(content)
    _note(name)


def _note(name: str) -> None:
    path = HERE / name
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    checksums = HERE / "checksums.json"
    known = json.loads(checksums.read_text()) if checksums.exists() else {}
    checksums.write_text(json.dumps(known | {name: digest}, indent=2, sort_keys=True) + "\n")
    print(f"{name}  {path.stat().st_size} bytes  sha256 {digest}")
