"""Colours and dashes of methods. Twenty colours cannot be told apart: families have one, members differ in dash, and
figures always write the name beside it. Pure functions.
"""

from __future__ import annotations

BLUE, ORANGE, GREEN, VIOLET, GRAY, TEAL = "#2f7fd1", "#d9711f", "#2a9d80", "#9a63cf", "#7d8795", "#1596b5"
FAMILIES: dict[str, tuple[str, tuple[str, ...]]] = {
    "influence functions": (
        BLUE, ("iffim", "if-cg", "if-lissa", "if-explicit", "if-arnoldi", "if-cg-run", "if-lissa-run"),
    ),
    "margin features": (VIOLET, ("trak",)),
    "by layer": (TEAL, ("ekfac", "kfac", "diagonal", "logra")),
    "along the training run": (GREEN, ("tracin", "source", "fast-source", "hydra-fast", "unrolled-influence")),
    "baselines": (GRAY, ("gradient-similarity", "repsim", "nearest-inputs", "empirical-influence", "random")),
}  # fmt: skip  # orange is kept for what harms
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "8px 2px 2px 2px")


def _place(method: str) -> tuple[str, str, int]:
    for family, (color, members) in FAMILIES.items():
        if method in members:
            return family, color, members.index(method)
    return "baselines", GRAY, 0


def method_key(variant: str) -> str:
    """Return the method of a variant's key."""
    return variant.split("|")[0]


def family(variant: str) -> str:
    """Return the family of a method."""
    return _place(method_key(variant))[0]


def method_color(variant: str) -> str:
    """Return the colour of a method's family, the same on every page."""
    return _place(method_key(variant))[1]


def method_dash(variant: str) -> str:
    """Return the dash that tells a method from others of its family."""
    return DASHES[_place(method_key(variant))[2]]
