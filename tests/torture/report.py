"""``docs/reliability.md``: which faults were tried, what was survived, what was lost. Written from what happened."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass
from pathlib import Path

PATH = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
HEAD = """# Reliability

What was done to the program on purpose, and what became of it. `make torture` writes this page from what happened;
`make test` tries a small sample of the same. *Survived*: afterwards, by itself or by the same command again, every
table and the checksum of every stored file equal those of an undisturbed run; or the fault was refused in one line that
names it. *Lost*: anything else.
"""


@dataclass
class Row:
    """One kind of fault.

    Attributes:
        fault: In words.
        compared: What survival means here.
        tried: How often.
        survived: How often nothing was lost.
    """

    fault: str
    compared: str
    tried: int = 0
    survived: int = 0


class Report:
    """Collects what happened, in the order in which faults first came.

    Args:
        title: Of the section of the page.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self._begin, self._end = f"<!-- {title.lower()}: begin -->", f"<!-- {title.lower()}: end -->"
        self._rows: dict[str, Row] = {}
        self._started = time.monotonic()

    def count(self, fault: str, compared: str, tried: int, survived: int) -> None:
        """Count what was tried, and how much of it was survived."""
        row = self._rows.setdefault(fault, Row(fault, compared))
        row.tried += tried
        row.survived += survived

    def lines(self, seed: int, share: float) -> list[str]:
        """Return the section of the page; ``share`` is how much of the whole suite was tried."""
        tried = sum(row.tried for row in self._rows.values())
        lost = tried - sum(row.survived for row in self._rows.values())
        minutes = (time.monotonic() - self._started) / 60
        return [
            f"## {self.title}",
            "",
            f"{tried} faults tried, **{lost} lost**; {share:.0%} of the whole suite, seed {seed}, "
            f"{minutes:.0f} minutes, Python {platform.python_version()} on {platform.system()}.",
            "",
            "| fault | tried | survived | lost | what was compared |",
            "|---|---|---|---|---|",
            *(
                f"| {row.fault} | {row.tried} | {row.survived} | {row.tried - row.survived} | {row.compared} |"
                for row in self._rows.values()
            ),
        ]

    def write(self, path: Path, seed: int, share: float) -> None:
        """Write the section into the page, if anything was tried; other sections stay."""
        if not self._rows:
            return
        text = path.read_text(encoding="utf-8") if path.exists() else HEAD
        section = "\n".join([self._begin, "", *self.lines(seed, share), "", self._end])
        if self._begin in text:
            before, rest = text.split(self._begin, 1)
            text = before + section + rest.split(self._end, 1)[1]
        else:
            text = f"{text.rstrip()}\n\n{section}\n"
        path.write_text(text, encoding="utf-8")
