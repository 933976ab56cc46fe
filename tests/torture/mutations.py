"""Texts made worse, a little at a time: by chance, but the same for the same chance."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

NASTY = (
    "../../escape",
    "/etc/passwd",
    "..\\..\\x",
    "\0",
    "\ufeff",
    "\r",
    "\u202e",
    "'; DROP TABLE studies; --",
    "<script>alert(1)</script>",
    "![x](http://e.example)",
    "$(touch x)",
    "`id`",
    "%s%n",
    "{0.__class__}",
    "-" * 40,
    "9" * 30,
    "9" * 5000,
    "1e999",
    "-1",
    "nan",
    "inf",
    "0",
    "true",
    "[]",
    "{}",
    "[" * 200 + "]" * 200,
    "[" + "1," * 3000 + "1]",
    '"' + "a" * 10_000 + '"',
    "a." * 300 + "b",
    "é" * 50,
    "𝟙",
    "\ud7ff",
)
"""What breaks programs: paths, commands, markup, numbers beyond all bounds, depth, length, odd characters."""

Change = Callable[[str, random.Random], str]


def _cut(text: str, chance: random.Random) -> str:
    start = chance.randrange(len(text) + 1)
    return text[:start] + text[start + chance.randrange(1, 40) :]


def _double(text: str, chance: random.Random) -> str:
    start = chance.randrange(len(text) + 1)
    piece = text[start : start + chance.randrange(1, 60)]
    return text[:start] + piece + text[start:]


def _insert(text: str, chance: random.Random) -> str:
    start = chance.randrange(len(text) + 1)
    return text[:start] + chance.choice(NASTY) + text[start:]


def _replace_word(text: str, chance: random.Random) -> str:
    words = text.split(" ")
    words[chance.randrange(len(words))] = chance.choice(NASTY)
    return " ".join(words)


def _replace_value(text: str, chance: random.Random) -> str:
    lines = text.split("\n")
    places = [number for number, line in enumerate(lines) if "=" in line]
    if places:
        number = chance.choice(places)
        lines[number] = f"{lines[number].partition('=')[0]}= {chance.choice(NASTY)}"
    return "\n".join(lines)


def _swap_lines(text: str, chance: random.Random) -> str:
    lines = text.split("\n")
    one, other = chance.randrange(len(lines)), chance.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]
    return "\n".join(lines)


def _flip(text: str, chance: random.Random) -> str:
    if not text:
        return text
    start = chance.randrange(len(text))
    return text[:start] + chr(ord(text[start]) ^ (1 << chance.randrange(7))) + text[start + 1 :]


def _line_ends(text: str, chance: random.Random) -> str:
    return chance.choice(("", "\ufeff")) + text.replace("\n", chance.choice(("\r\n", "\r")))


CHANGES: Sequence[Change] = (_cut, _double, _insert, _replace_word, _replace_value, _swap_lines, _flip, _line_ends)


def mutated(text: str, chance: random.Random) -> str:
    """Return ``text`` after one to four changes."""
    for _ in range(chance.randrange(1, 5)):
        text = chance.choice(CHANGES)(text, chance)
    return text
