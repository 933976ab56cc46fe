"""Where damaged artifacts go: out of the way of every reader, with nothing deleted."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

FOLDER = "damaged"


def quarantine_of(artifact: Path) -> Path:
    """Return the folder that the artifact at ``artifact`` is set aside in."""
    return artifact.parents[1] / FOLDER


def set_aside(artifact: Path) -> Path | None:
    """Move a damaged artifact out of the way.

    Returns:
        Its new place; ``None`` where it cannot be moved. If somebody else has moved it, the place is the folder.
    """
    target = quarantine_of(artifact) / f"{artifact.name}-{uuid.uuid4().hex[:6]}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(artifact, target)
    except FileNotFoundError:
        return target.parent
    except OSError:
        return None
    return target
