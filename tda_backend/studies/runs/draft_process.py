"""A process that drafts one study and ends: whatever the code of its task does, it does it here."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from tda_backend.errors import TDAError
from tda_backend.studies.runs.drafts import draft


def main() -> None:
    """Read what is asked from standard input; leave the answer in the file that it names."""
    asked = json.loads(sys.stdin.read())
    try:
        answer = asdict(draft(asked["toml"], asked["small"]))
    except TDAError as error:
        answer = {"error": error.message, "hint": error.hint}
    place = Path(asked["answer"])
    place.with_suffix(".part").write_text(json.dumps(answer), encoding="utf-8")
    place.with_suffix(".part").replace(place)


if __name__ == "__main__":
    main()
