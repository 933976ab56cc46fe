"""Which configuration a view means; if there is none exactly like it, the nearest, and a sentence. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from app import settings
from app.configurations import Configuration, Configurations
from app.formats import projection_text
from app.settings import Settings, value_of
from app.state import UNPROJECTED, View, k_text

WIDEST = 20000.0  # what unprojected counts as, where projection dimensions are compared


def nearest(configurations: Configurations, view: View, pinned: str = "") -> tuple[Configuration, str]:
    """Return the configuration closest to a view, and a sentence if it is not exactly what was asked for.

    Args:
        configurations: At least one.
        view: What is wanted; the method goes first.
        pinned: ``epoch``, ``k`` or the name of a setting that was just chosen and must hold if anything has it.
    """
    rows, view, note = _of_method(configurations, view)
    rows, view, more = _with_settings(rows, view)
    note += more
    kept = [row for row in rows if _has(row, view, pinned)] if pinned else []
    candidates = kept or list(rows)
    if view.epoch is None and not view.k and not view.settings:
        return max(candidates, key=lambda row: -math.inf if row.best_lds is None else row.best_lds), note.strip()
    found = min(candidates, key=lambda row: _distance(row, view))
    if _distance(found, view)[0]:
        note += _difference(found, view)
    return found, note.strip()


def _of_method(configurations: Configurations, view: View) -> tuple[Configurations, View, str]:
    """Return the configurations of the view's method; all of them, with a sentence, if it has none."""
    mine = configurations.of(view.method) if view.method else configurations
    if len(mine):
        return mine, view, ""
    note = f"There is no method {view.method!r} here yet (there is: {', '.join(configurations.methods)}). "
    return configurations, replace(view, settings=()), note


def _with_settings(rows: Configurations, view: View) -> tuple[Configurations, View, str]:
    """Return the view without settings that no configuration has, and a sentence about those."""
    known = {name for row in rows for name, _ in row.settings}
    unknown = [name for name, _ in view.settings if name not in known]
    if not unknown:
        return rows, view, ""
    allowed = f"it has {', '.join(sorted(known))}" if known else "it has none"
    note = f"{rows.rows[0].method} has no setting {', '.join(map(repr, unknown))} ({allowed}). "
    kept = tuple((name, value) for name, value in view.settings if name in known)
    return rows, replace(view, settings=kept), note


def _has(row: Configuration, view: View, pinned: str) -> bool:
    """Return whether a configuration has the setting that was just chosen."""
    if pinned == "epoch":
        return row.training_epoch == view.epoch
    if pinned == "k":
        return k_text(row.projection_dim) == view.k
    wanted = value_of(view.settings, pinned)
    return wanted is not None and value_of(row.settings, pinned) == wanted


def _distance(row: Configuration, view: View) -> tuple[int, float, int, float]:
    """Return how far a configuration is from what is wanted.

    Settings that differ, then octaves between them, then settings that nobody chose and that are not the default,
    then the LDS.
    """
    wrong, octaves = 0, 0.0
    if view.epoch is not None and row.training_epoch != view.epoch:
        wrong += 1
        octaves += abs(math.log2(max(1, row.training_epoch) / max(1, view.epoch)))
    mine = k_text(row.projection_dim)
    if view.k and mine != view.k:
        wrong += 1
        dims = [WIDEST if text == UNPROJECTED else float(text) for text in (mine, view.k)]
        octaves += abs(math.log2(max(1.0, dims[0]) / max(1.0, dims[1])))
    for name, value in view.settings:
        own = value_of(row.settings, name)
        if own != value:
            wrong += 1
            octaves += settings.distance(value, own or "")
    unusual = _num_unusual(row, [name for name, _ in view.settings])
    best = row.best_lds
    return wrong, octaves, unusual, math.inf if best is None or not math.isfinite(best) else -best


def _num_unusual(row: Configuration, asked: Sequence[str]) -> int:
    usual: Settings = row.defaults
    return sum(value != value_of(usual, name) for name, value in row.settings if name not in asked)


def _difference(row: Configuration, view: View) -> str:
    """Return a sentence on what was wanted and what is shown."""
    wanted = [] if view.epoch is None else [f"epoch {view.epoch}"]
    wanted += [projection_text(None if view.k == UNPROJECTED else int(view.k))] if view.k else []
    wanted += [settings.words(name, value) for name, value in view.settings]
    found = [f"epoch {row.training_epoch}", projection_text(row.projection_dim)]
    found += [settings.words(name, value_of(row.settings, name) or "") for name, _ in view.settings]
    return f"{row.variant_title} has no {', '.join(wanted)}; the nearest is shown: {', '.join(found)}."
