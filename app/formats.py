"""Numbers as people read them. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tda_backend.interfaces.reading.records.base import is_missing

__all__ = [
    "MISSING",
    "count_text",
    "duration_text",
    "is_missing",
    "joined",
    "lds_text",
    "parse_regularization",
    "plain",
    "projection_text",
    "rate_text",
    "regularization_text",
    "signed",
]
MISSING = "–"


def signed(value: float | None, digits: int) -> str:
    """Return the number with a true minus sign; a dash where there is none."""
    if value is None or math.isnan(value):
        return MISSING
    return f"{value:.{digits}f}".replace("-", "−")


def regularization_text(value: float | None) -> str:
    """Return λ with three significant digits: ``0``, ``0.012``, ``5.6e-4``; the explorer writes it the same way."""
    if is_missing(value):
        return MISSING
    if value <= 0:
        return "0"
    mantissa, power = f"{value:.2e}".split("e")
    if -2 <= int(power) <= 3:
        return f"{float(f'{value:.3g}'):g}"
    return f"{float(mantissa):g}e{int(power)}"


def parse_regularization(text: str) -> float | None:
    """Return the λ that a person typed, or ``None`` if it is no number ≥ 0."""
    try:
        value = float(text.strip().replace(",", ".").replace("−", "-"))
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def lds_text(mean: float | None, low: float | None = None, high: float | None = None) -> str:
    """Return an LDS with its interval: ``0.412 (0.381 to 0.443)``."""
    if is_missing(mean):
        return MISSING
    if is_missing(low) or is_missing(high):
        return signed(float(mean), 3)
    return f"{signed(float(mean), 3)} ({signed(float(low), 3)} to {signed(float(high), 3)})"


def projection_text(value: Any) -> str:
    """Return a projection dimension for a person."""
    return "unprojected" if is_missing(value) else f"k = {int(value)}"


def count_text(count: int, noun: str, plural: str | None = None) -> str:
    """Return a count with its noun, thousands apart: ``5 000 examples``."""
    number = f"{count:,}".replace(",", "\u202f")
    return f"{number} {noun if count == 1 else plural or noun + 's'}"


def duration_text(seconds: float | None) -> str:
    """Return a duration: ``42 s``, ``3 min 20 s``, ``1 h 5 min``."""
    if is_missing(seconds):
        return MISSING
    whole = max(0, round(float(seconds)))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def rate_text(rate: float | None) -> str:
    """Return a rate in units a second with two honest digits."""
    if is_missing(rate) or not rate:
        return ""
    return f"{float(f'{rate:.2g}'):g}/s"


def plain(text: object) -> str:
    """Return data text that Markdown shows as it is."""
    return "".join(f"\\{char}" if char in r"\`*_{}[]()#+-.!|<>~$:&^" else char for char in str(text))


def joined(values: Sequence[object]) -> str:
    """Return ``a, b and c``."""
    words = [str(value) for value in values]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""
