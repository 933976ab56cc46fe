"""The pinned versions and the list of their files' hashes say the same."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_ENTRY = re.compile(r"^([A-Za-z0-9_.-]+)==(\S+) \\\n    --hash=sha256:([0-9a-f]{64})$", re.MULTILINE)


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_pin_has_a_hash_and_every_hash_a_pin():
    pins = dict(re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    text = (ROOT / ".ci" / "locked.txt").read_text()
    entries = _ENTRY.findall(text)
    locked = {canonical(name): version.partition("+")[0] for name, version, _ in entries}
    assert len(pins) > 60
    # The hash is of this build's file: another index's torch of that version is another file.
    assert [(name, version) for name, version, _ in entries if "+" in version] == [("torch", f"{pins['torch']}+cpu")]
    assert {canonical(name): version for name, version in pins.items()} == {
        name: version
        for name, version in locked.items()
        if name != "setuptools"  # torch's own; not pinned
    }
    assert len({digest for *_, digest in entries}) == len(entries)
    rest = _ENTRY.sub("", text)
    assert all(line.startswith("#") or not line for line in rest.splitlines())
