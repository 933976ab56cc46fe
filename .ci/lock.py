"""Print the files that pip would install, by SHA-256, from its report: see SECURITY.md."""

from __future__ import annotations

import json
import sys
from pathlib import Path

HEAD = """\
# The exact files of constraints.txt for CPython 3.11 on Linux x86-64, by SHA-256 (torch: the CPU build,
# which an index with torch's CPU builds has: configure one first).
# Install:  python -m pip install --require-hashes --no-deps -r .ci/locked.txt
#           python -m pip install --no-deps --no-build-isolation -e .
# Make it again after a change of constraints.txt: SECURITY.md says how. A test compares the two.
"""


def locked(report: dict) -> str:
    """Return the list: one requirement with its hash for each file of a report; the project itself has none."""
    rows = {}
    for item in report["install"]:
        digest = item["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256")
        if digest:
            # With the build after the +: the hash is that build's.
            name, version = item["metadata"]["name"], item["metadata"]["version"]
            rows[name.lower()] = f"{name}=={version} \\\n    --hash=sha256:{digest}\n"
    return HEAD + "".join(text for _, text in sorted(rows.items()))


if __name__ == "__main__":
    sys.stdout.write(locked(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
