"""From the text of a study file to a dict: its syntax, its size and its depth; nothing in it is checked yet."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from tda_backend.errors import StudyError

FILE_BYTES = 512 * 1024
DEPTH = 12
DIGITS = 400
"""Of a whole number. The largest float has 309; no setting needs more."""


def read_text(path: Path) -> str:
    """Return the text of a study file, whatever its ends of line, and without the mark that some editors begin with.

    Raises:
        StudyError: It cannot be read, is no UTF-8, or is larger than ``FILE_BYTES``.
    """
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise StudyError(f"The study file {path} cannot be read ({reason}).", "Check the path.") from error
    if len(content) > FILE_BYTES:
        raise StudyError(
            f"The study file {path} has more than {FILE_BYTES // 1024} KiB.", "No study needs that: check the path."
        )
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise StudyError(f"The study file {path} is not UTF-8 text ({error.reason}).", "Save it as UTF-8.") from error


def parse(text: str, what: str = "The study") -> dict[str, Any]:
    """Return what the text of a study file says.

    Args:
        text: Of the file.
        what: It in words, for errors.

    Raises:
        StudyError: It is no TOML, too large or nested too deeply.
    """
    if len(text) > FILE_BYTES:
        raise StudyError(f"{what} has more than {FILE_BYTES // 1024} KiB.", "No study needs that.")
    try:
        content = tomllib.loads(text.removeprefix("\ufeff"))
        depth, digits = _extent(content)
    except (ValueError, OverflowError) as error:  # tomllib's own error is a ValueError; so is a number of 5 000 digits
        reason = str(error).splitlines()[0][:200]
        raise StudyError(f"{what} is not valid TOML: {reason}.", "Correct that place.") from error
    except RecursionError:
        depth, digits = DEPTH + 1, 0
    if depth > DEPTH:
        raise StudyError(f"{what} has tables or lists in each other more than {DEPTH} deep.", "Flatten it.")
    if digits > DIGITS:
        raise StudyError(f"{what} has a whole number of more than {DIGITS} digits.", "No setting needs that.")
    return content


def _extent(content: dict[str, Any]) -> tuple[int, int]:
    """Return how deep a content is, and about how many digits its longest whole number has."""
    depth, digits, level = 0, 0, [content]
    while level and depth <= DEPTH:
        depth += 1
        below: list[Any] = []
        for each in level:
            items = list(each.values()) if isinstance(each, dict) else each
            digits = max([digits, *(item.bit_length() * 3 // 10 for item in items if isinstance(item, int))])
            below += [item for item in items if isinstance(item, dict | list)]
        level = below
    return depth, digits
