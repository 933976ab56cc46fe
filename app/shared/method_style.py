"""Colours and dashes of methods, from the method table: families have a colour, their members differ in dash.

Figures always write the name beside it. Pure functions.
"""

from __future__ import annotations

from tda_backend.studies.methods import METHODS, UNKNOWN_STYLE, Method, Style

BLUE, ORANGE, GREEN, VIOLET, GRAY, TEAL = "#2f7fd1", "#d9711f", "#2a9d80", "#9a63cf", "#7d8795", "#1596b5"
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "8px 2px 2px 2px")
FAMILIES = tuple(dict.fromkeys(spec.style.family for spec in METHODS.values()))


def known_method(variant: str) -> Method | None:
    """Return the method of a variant, ``None`` for one that this version does not know."""
    return METHODS.get(method_key(variant))


def style_of(variant: str) -> Style:
    """Return how a method (or a variant of it) is drawn; one that this version does not know is drawn in grey."""
    spec = known_method(variant)
    return UNKNOWN_STYLE if spec is None else spec.style


def method_key(variant: str) -> str:
    """Return the method of a variant's key."""
    return variant.split("|")[0]


def family(variant: str) -> str:
    """Return the family of a method."""
    return style_of(variant).family


def method_color(variant: str) -> str:
    """Return the colour of a method's family, the same on every page."""
    return style_of(variant).color


def method_dash(variant: str) -> str:
    """Return the dash that tells a method from others of its family."""
    return style_of(variant).dash
