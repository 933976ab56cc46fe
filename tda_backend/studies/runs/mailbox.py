"""Where workers of a cluster tell how far they are. It has a process of its own, so this module imports little."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Progressed:
    """How far a worker is with a step.

    Attributes:
        key: Of the step.
        done: Units that are finished.
        total: Units in all; 0: the step has begun.
    """

    key: str
    done: int = 0
    total: int = 0


class Mailbox:
    """Keeps what workers tell until the driver asks."""

    def __init__(self) -> None:
        self._events: list[Progressed] = []

    def put(self, event: Progressed) -> None:
        """Keep one."""
        self._events.append(event)

    def take(self) -> list[Progressed]:
        """Return all that are kept, and keep none."""
        events, self._events = self._events, []
        return events
