"""Places at which a test may kill the process, to prove that nothing is lost there.

``TDA_FAULT=step:point`` sends SIGKILL to this process when it reaches that point; without it this costs one look-up.
"""

from __future__ import annotations

import os
import signal

VARIABLE = "TDA_FAULT"


def reach(step: str, point: str) -> None:
    """Die by SIGKILL here if the environment asks for exactly this ``step`` and ``point``."""
    if os.environ.get(VARIABLE) == f"{step}:{point}":
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
