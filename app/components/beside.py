"""Which methods are drawn beside the chosen one, where pages compare methods."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app import session
from app.session import Context, control
from app.state import nearest

MOST = 3  # figures side by side
USUAL = 2


def _chosen(context: Context, known: pd.DataFrame) -> list[str]:
    """Return the keys of the methods that are drawn, the present one first if it takes part."""
    names = list(dict.fromkeys(known["method"]))
    present = [name for name in names if name == context.view.method]
    if context.view.beside is None:
        others = [name for name in names if name not in present]
        return [name for name in names if name in (*present, *others[: USUAL - len(present)])]
    others = [name for name in context.view.beside if name in names and name not in present]
    return [*present, *others][:MOST] or names[:1]


def beside_box(context: Context, known: pd.DataFrame, key: str) -> None:
    """Draw the choice of methods beside the present one; nothing where there is only one method.

    Args:
        context: What the page works with.
        known: Configurations that take part.
        key: Of the page.
    """
    titles = dict(zip(known["method"], known["method_title"], strict=True))
    others = [name for name in titles if name != context.view.method]
    if not others:
        return
    chosen = [name for name in _chosen(context, known) if name != context.view.method]
    most = MOST - (context.view.method in titles)
    control(
        st.multiselect, "Beside the chosen method", f"beside-{key}-{context.view.method}", chosen,
        lambda names: session.update(beside=tuple(names)), options=others,
        format_func=lambda name: titles.get(name, name), max_selections=most,
    )  # fmt: skip


def methods_beside(context: Context, known: pd.DataFrame) -> list[pd.Series]:
    """Return one configuration of each method that is drawn: at the present settings, or nearest to them."""
    rows = []
    for name in _chosen(context, known):
        mine = known[known["method"] == name]
        view = session.view_for(context.view, name, mine)
        rows.append(nearest(mine, view)[0])
    return rows
