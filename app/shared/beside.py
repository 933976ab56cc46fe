"""Which methods are drawn beside the chosen one, where pages compare methods."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from app import session
from app.configurations import Configuration, Configurations
from app.formats import joined, projection_text
from app.nearest import nearest
from app.session import Context, control
from app.state import UNPROJECTED, k_text

MOST = 3  # figures side by side
USUAL = 2


def _chosen(context: Context, known: Configurations) -> list[str]:
    """Return the keys of the methods that are drawn, the present one first if it takes part."""
    names = list(known.methods)
    present = [name for name in names if name == context.view.method]
    if context.view.beside is None:
        others = [name for name in names if name not in present]
        return [name for name in names if name in (*present, *others[: USUAL - len(present)])]
    others = [name for name in context.view.beside if name in names and name not in present]
    return [*present, *others][:MOST] or names[:1]


def beside_box(context: Context, known: Configurations, key: str) -> None:
    """Draw the choice of methods beside the present one; nothing where there is only one method.

    Args:
        context: What the page works with.
        known: Configurations that take part.
        key: Of the page.
    """
    titles = known.methods
    others = [name for name in titles if name != context.view.method]
    if not others:
        return
    chosen = [name for name in _chosen(context, known) if name != context.view.method]
    control(
        st.multiselect,
        "Beside the chosen method",
        f"beside-{key}-{context.view.method}",
        chosen,
        lambda names: session.update(beside=tuple(names)),
        options=others,
        format_func=lambda name: titles.get(name, name),
        max_selections=MOST - (context.view.method in titles),
    )


def where_text(row: Configuration) -> str:
    """Return a method with its epoch and k."""
    return f"{row.variant_title} at epoch {row.training_epoch}, {projection_text(row.projection_dim)}"


def unlike_text(context: Context, rows: Sequence[Configuration]) -> str:
    """Return which of the methods that are drawn are not at the epoch and k in the side bar; empty where all are."""
    view = context.view
    others = [row for row in rows if row.training_epoch != view.epoch or k_text(row.projection_dim) != view.k]
    if not others:
        return ""
    said = [where_text(row) for row in others]
    return f"Not like with like: {joined(said)}, the nearest that was computed to epoch {view.epoch}, {_k(view.k)}."


def _k(text: str) -> str:
    return projection_text(None if text == UNPROJECTED else int(text))


def methods_beside(context: Context, known: Configurations) -> list[Configuration]:
    """Return one configuration of each method that is drawn: at the present settings, or nearest to them."""
    groups = [known.of(name) for name in _chosen(context, known)]
    return [nearest(mine, session.view_for(context.view, mine))[0] for mine in groups]
