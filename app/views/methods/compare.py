"""Two configurations against each other: is A better than B, do they name the same examples, and for which classes."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from app import services, session
from app.configurations import Configuration
from app.formats import MISSING, is_missing, plain, regularization_text, signed
from app.session import Context, control
from app.shared.errors import shows_errors
from app.shared.tables import show_data
from app.state import VERSUS_AT
from app.views.methods.best import usual_rival
from app.views.methods.compare_charts import by_class_figure, overlap_figure
from tda_backend.interfaces.reading.comparison import (
    Agreement,
    Compared,
    Side,
    agreement,
    compare,
    regularization_at,
)
from tda_backend.numerics.evaluation.comparison import Comparison

SINGLE = "single"
AT_NAMES = {"selected": "λ*", "best": "best λ", "zero": "λ = 0", "default": "papers' default", "same": "λ of A"}
CHART = {"displaylogo": False, "modeBarButtonsToRemove": ["lasso2d", "select2d", "autoScale2d"]}


@st.cache_resource(max_entries=32, show_spinner="Comparing on the same draws of subsets")
def _compared(study_id: str, version: str, a: Side, b: Side, alpha: float) -> Compared:
    return compare(services.study(study_id), a, b, alpha)


@st.cache_resource(max_entries=64, show_spinner=False)
def _agreement(study_id: str, version: str, a: Side, b: Side, query: int) -> Agreement:
    return agreement(services.study(study_id), a, b, query)


@shows_errors
def show_compare(context: Context) -> None:
    """Draw the section: the present configuration (A) against another one (B), or against its first model alone."""
    st.subheader("Compare two configurations", anchor=False)
    here = context.chosen
    rival = usual_rival(context.configurations, here)
    others = [row.configuration_id for row in context.configurations if row.configuration_id != here.configuration_id]
    options = [*([SINGLE] if here.num_seeds > 1 else []), *others]
    if not options:
        st.caption("This study has only one configuration.")
        return
    usual = SINGLE if rival is None else rival.configuration_id
    versus = context.view.versus if context.view.versus in options else usual
    st.markdown(f"**A**, the present one: {plain(here.label)}{_at(context.lam)}")
    row = here if versus == SINGLE else context.configurations.by_id(versus)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        _show_versus(context, versus, options)
        word = "same" if versus == SINGLE else _show_word(context, row)
    lam = context.lam if word == "same" else regularization_at(context.opened, row, word, context.alpha)
    a = Side(here.configuration_id, context.lam)
    b = Side(row.configuration_id, lam if row.has_regularization else None, int(versus == SINGLE))
    name = f"{row.label}, first of {row.num_seeds} models" if b.models else row.label
    st.markdown(f"**B**: {plain(name)}{_at(b.regularization)}")
    if here.has_lds and row.has_lds:
        _show_lds(context, a, b)
    else:
        st.info("The difference of LDS appears once both are evaluated on retrained subsets.")
    _show_agreement(context, a, b)


def _show_versus(context: Context, versus: str, options: Sequence[str]) -> None:
    """Draw the choice of B."""
    known = context.configurations
    control(
        st.selectbox,
        "B",
        "compare-versus",
        versus,
        lambda value: session.update(versus=value),
        options=options,
        width=460,
        format_func=lambda each: "A's first model alone" if each == SINGLE else known.by_id(each).label,
    )


def _show_word(context: Context, row: Configuration) -> str:
    """Draw the choice of B's λ, where B has one; return it."""
    word = context.view.versus_at
    if not row.has_regularization:
        return word
    offered = [each for each in VERSUS_AT if each != "same" or context.lam is not None]
    word = word if word in offered else "selected"
    control(
        st.segmented_control,
        "λ of B",
        "compare-at",
        word,
        lambda value: session.update(versus_at=value),
        options=offered,
        format_func=lambda each: AT_NAMES.get(each, each),
        required=True,
    )
    return word


def _at(lam: float | None) -> str:
    return "" if lam is None else f", λ = {regularization_text(lam)}"


def _show_lds(context: Context, a: Side, b: Side) -> None:
    found = _compared(context.opened.study_id, services.version(), a, b, context.alpha)
    _show_difference(found.comparison)
    words = {
        "A": "**A is better**: the 95 % interval of the difference lies above 0.",
        "B": "**B is better**: the 95 % interval of the difference lies below 0.",
    }
    undecided = "**Undecided**: the 95 % interval of the difference contains 0."
    each = found.comparison
    st.markdown(f"{words.get(each.verdict, undecided)} {plain(found.power.sentence)}")
    wider = ""
    if not is_missing(each.ci_low_queries):
        low, high = signed(each.ci_low_queries, 3), signed(each.ci_high_queries, 3)
        wider = f" For other queries of the same kind too: {low} to {high}."
    st.caption(
        f"Both are judged by the same {found.num_subsets} retrained subsets (α = {context.alpha:g}) in "
        f"{each.num_draws} draws: what makes a draw easy for one makes it easy for the other, so the interval of the "
        f"difference is narrower than the two intervals suggest.{wider}"
    )
    if found.by_class:
        _show_classes(found)


def _show_difference(each: Comparison) -> None:
    """Draw both LDS, their difference, and how sure its sign is."""
    entries = (
        ("LDS of A", signed(each.lds_a, 3), ""),
        ("LDS of B", signed(each.lds_b, 3), ""),
        (
            "A − B",
            f"{each.difference:+.3f}".replace("-", "−"),
            f"95 %: {signed(each.ci_low, 3)} to {signed(each.ci_high, 3)}",
        ),
        ("Probability that A is better", _probability(each.probability, each.num_draws), "share of draws of subsets"),
    )
    with st.container(horizontal=True, gap="large"):
        for name, value, detail in entries:
            with st.container(width="content", gap=None):
                st.metric(name, value)
                if detail:
                    st.caption(detail)


def _show_classes(found: Compared) -> None:
    """Draw the LDS of both by class of the query."""
    st.markdown("**By class of the query**")
    st.plotly_chart(
        by_class_figure(found.by_class),
        width="stretch",
        config=CHART,
        key="compare-classes",
        alt="LDS of A and B by class: "
        + "; ".join(f"{row.name}: {row.a:.3f} and {row.b:.3f}" for row in found.by_class),
    )
    st.caption(
        f"In brackets: queries of the class. Class-balanced LDS, every class counting the same: A "
        f"{signed(found.balanced[0], 3)}, B {signed(found.balanced[1], 3)}."
    )
    table = pd.DataFrame([vars(row) for row in found.by_class]).rename(
        columns={"name": "class", "num_queries": "queries"}
    )
    show_data(table.round(4), "compare-classes")


def _probability(share: float, num_draws: int) -> str:
    """Return a share of draws; none or all of them says no more than that it is rare."""
    finest = 100 / num_draws
    if share <= 0 or share >= 1:
        return f"< {finest:g} %" if share <= 0 else f"> {100 - finest:g} %"
    return f"{100 * share:.0f} %" if 0.01 <= share <= 0.99 else f"{100 * share:.1f} %"


def _show_agreement(context: Context, a: Side, b: Side) -> None:
    query = context.query
    found = _agreement(context.opened.study_id, services.version(), a, b, query)
    correlation = MISSING if is_missing(found.correlation) else signed(found.correlation, 3)
    st.markdown(
        f"**Do they name the same examples for query {query}?** Rank correlation of the two lists of scores: "
        f"{correlation}."
    )
    st.plotly_chart(
        overlap_figure(found.overlap),
        width="stretch",
        config=CHART,
        key="compare-overlap",
        alt="; ".join(
            f"top {row.top}: {row.helpful:.0%} of the helpful, {row.harmful:.0%} of the harmful in common"
            for row in found.overlap
        ),
    )
    st.caption("Share of the examples that help, or hurt, this query most that both configurations name.")
    show_data(pd.DataFrame([vars(row) for row in found.overlap]).round(3), "compare-overlap")
