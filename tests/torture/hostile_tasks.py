"""A process that loads hostile tasks one after the other and says what became of each, one JSON line a task."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tda_backend.errors import TDAError
from tda_backend.models.tasks.registry import load_task
from tda_backend.studies.pipeline.facts import task_facts


def main() -> None:
    """Load every file named in standard input; what a task prints goes to standard error."""
    told = sys.stdout
    sys.stdout = sys.stderr
    for name in sys.stdin.read().split("\n"):
        path = Path(name)
        try:
            spec = f"{path}:factory"
            task_facts(load_task(spec), spec)
            said = {"end": "works", "words": ""}
        except TDAError as error:
            said = {"end": "refused", "words": error.message}
        except BaseException as error:
            said = {"end": "broke", "words": f"{type(error).__name__}: {error}"}
        told.write(json.dumps({"file": path.name, **said}) + "\n")
        told.flush()


if __name__ == "__main__":
    main()
