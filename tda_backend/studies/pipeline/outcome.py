"""What a run of a plan did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from tda_backend.errors import TDAError


@dataclass(frozen=True)
class Effort:
    """What the steps that a run computed take together.

    Attributes:
        seconds: All their times.
        gib: The most memory that one of them has, with program and data.
    """

    seconds: float
    gib: float

    def joined(self, other: Effort) -> Effort:
        """Return what these steps and others take together."""
        return Effort(self.seconds + other.seconds, max(self.gib, other.gib))


@dataclass(frozen=True)
class Done:
    """A step that a run has done with.

    Attributes:
        label: For people.
        is_new: Whether this run computed it; else it was finished before.
    """

    label: str
    is_new: bool


@dataclass
class Outcome:
    """What a run did.

    Attributes:
        done: The steps that are finished, by key, in the order in which they ended.
        seconds: Wall time.
        num_waiting: Drops that no process has taken into the catalogue yet.
        peak_memory_mib: Peak of this process.
        planned: What the plan said of the steps that were computed.
        took: What they took; memory is that of this process alone.
        failed: Why steps could not be computed, by key.
    """

    done: Mapping[str, Done]
    seconds: float
    num_waiting: int
    peak_memory_mib: float
    planned: Effort
    took: Effort
    failed: Mapping[str, TDAError] = field(default_factory=dict)

    @property
    def computed(self) -> list[str]:
        """Labels of the steps that were computed."""
        return [each.label for each in self.done.values() if each.is_new]

    @property
    def cached(self) -> list[str]:
        """Labels of the steps that were finished before."""
        return [each.label for each in self.done.values() if not each.is_new]

    def followed_by(self, later: Outcome) -> Outcome:
        """Return what two runs did as one; failures are those of the later one."""
        return replace(
            later,
            done={**later.done, **self.done},  # what the first has computed, the second finds finished
            seconds=self.seconds + later.seconds,
            planned=self.planned.joined(later.planned),
            took=self.took.joined(later.took),
        )
