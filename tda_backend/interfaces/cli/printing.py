"""How commands print: lines, tables and numbers for people, JSON for programs."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text


def plain(value: Any) -> Any:
    """Return a value as JSON knows it: no NumPy, no NaN (null), times in ISO form."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(item) for item in value]
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, np.bool_ | bool):
        return bool(value)
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value.isoformat() if isinstance(value, pd.Timestamp) else value


def print_json(content: Any) -> None:
    """Print a value as JSON."""
    sys.stdout.write(json.dumps(plain(content), indent=2, ensure_ascii=False) + "\n")


def print_line(console: Console, text: str) -> None:
    """Print a line as it is: no markup, no colours, not broken at the width of the terminal."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def print_table(console: Console, columns: Sequence[str], rows: Sequence[Sequence[Any]], title: str = "") -> None:
    """Print a table; numbers to the right, 160 columns wide where the output is no terminal."""
    numeric = [
        all(isinstance(row[i], int | float) or row[i] in ("–", "") or _is_number(row[i]) for row in rows)
        for i in range(len(columns))
    ]
    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name, right in zip(columns, numeric, strict=True):
        table.add_column(name, justify="right" if right and rows else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(value)) for value in row))
    wide = console if console.is_terminal else Console(file=console.file, width=160)
    wide.print(table)


def _is_number(text: Any) -> bool:
    return isinstance(text, str) and bool(text) and text[0] in "-0123456789" and text.replace(" ", "")[-1:].isdigit()


def number(value: float | None, digits: str = ".3f") -> str:
    """Return a number, or a dash where there is none."""
    return "–" if value is None or math.isnan(value) else format(value, digits)


def interval(mean: float | None, low: float | None, high: float | None) -> str:
    """Return a mean with its interval, or a dash where there is none."""
    return "–" if mean is None or math.isnan(mean) else f"{mean:.3f} [{number(low)}, {number(high)}]"


def duration(seconds: float | None) -> str:
    """Return seconds as a person reads them: 0.4 s, 12 s, 3:05, 1:02:03."""
    if seconds is None:
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def size(num_bytes: float) -> str:
    """Return a number of bytes as a person reads it."""
    for unit in ("B", "KiB", "MiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.2f} GiB"
