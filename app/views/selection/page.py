"""λ selection: how good each rule for choosing λ is, against the LDS that retraining shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import streamlit as st

from app import services, session
from app.configurations import Configuration, Configurations
from app.formats import MISSING, joined, plain, projection_text, regularization_text, signed
from app.session import Context, control
from app.shared import page
from app.shared.beside import beside_box, methods_beside, unlike_text, where_text
from app.shared.curves import LDS_HELP
from app.shared.errors import shows_errors
from app.shared.progress import follow
from app.shared.tables import csv_button
from app.views.selection import tuning
from app.views.selection.one_method import Choice, choice_of, show_method, span_of
from app.views.selection.rules import judged_rules, rules, rules_table
from tda_backend.interfaces.reading.records.base import record, records
from tda_backend.interfaces.reading.records.selections import Race, RuleRow, SelectionRow


@shows_errors
def render() -> None:
    """Draw the page."""
    st.title("λ selection", anchor=False)
    st.markdown(
        "λ* is chosen **without retraining**: where the mean surrogate indicator ξ̄(λ) crosses the threshold. "
        "LDS, which needs many retrained models, shows how good that choice is."
    )
    st.caption(LDS_HELP)
    context = page.opened()
    if context is None:
        return
    _show_controls(context)
    with_lambda = context.configurations.with_lambda()
    if not len(with_lambda):
        st.info("No method of this study has a λ to select; Methods compares them.")
        _show_without(context)
        return
    beside_box(context, with_lambda, "selection")
    if not context.chosen.has_regularization:
        st.info(f"{plain(context.chosen.variant_title)} has no λ to select; these methods have one.")
    shown = [choice_of(context, row) for row in methods_beside(context, with_lambda)]
    unlike = unlike_text(context, [choice.row for choice in shown])
    if unlike:
        st.info(plain(unlike), icon=":material/info:")
    span = span_of(shown)
    for column, choice in zip(st.columns(len(shown), gap="large"), shown, strict=True):
        with column:
            show_method(context, choice, span)
    _show_regret(context, shown)
    _show_judged(context, shown)
    tuning.show(context)
    _show_all(context)
    _show_without(context)
    follow()


def _show_controls(context: Context) -> None:
    left, right = st.columns([2, 1], gap="large")
    with left:
        control(
            st.slider,
            "Threshold of ξ̄",
            "threshold",
            context.view.xi,
            lambda value: session.update(xi=value),
            min_value=0.3,
            max_value=0.7,
            step=0.05,
            help="0.4 to 0.6 work alike; the paper takes 0.5",
        )
    alphas = context.opened.alphas
    if len(alphas) > 1:
        with right:
            control(
                st.segmented_control,
                "Share of the training set in a subset, α",
                "alpha",
                context.alpha,
                lambda value: session.update(alpha=value),
                options=alphas,
                required=True,
            )


def _show_regret(context: Context, shown: Sequence[Choice]) -> None:
    st.subheader("Regret of each rule", anchor=False)
    parts = [
        rules_table(rules(choice.record, choice.curve, choice.lam, context.view.xi), choice.row.variant_title)
        for choice in shown
        if choice.record is not None
    ]
    if not parts:
        st.info("The table appears with the first LDS.")
        return
    frame = pd.concat(parts)
    st.dataframe(frame, width="stretch", hide_index=True, placeholder=MISSING)
    st.caption(
        "Regret: how much LDS a rule gives away against the best λ known, which only retraining can find. "
        f"Compared for {joined([plain(where_text(choice.row)) for choice in shown])}."
    )
    csv_button(frame, "regret")
    with st.container(horizontal=True):
        for choice in shown:
            _show_use(choice)


def _show_use(choice: Choice) -> None:
    """Draw the button that makes a method and its λ* current."""
    lam, row = None if choice.record is None else choice.record.lambda_selected, choice.row
    if lam is not None and st.button(f"Use λ* of {plain(row.variant_title)}", key=f"use-{row.variant}"):
        session.go_to(row, lam)
        st.rerun()


def _show_judged(context: Context, shown: Sequence[Choice]) -> None:
    """Draw every rule with its cost in retrainings: for the methods shown, and over all configurations."""
    rows = records(context.opened.rules(context.alpha), RuleRow)
    st.subheader("What each rule costs, over all configurations", anchor=False)
    if not rows:
        st.info("The table appears once every configuration is evaluated on all retrained subsets.")
        return
    table = judged_rules(rows, {choice.row.configuration_id: choice.row.variant_title for choice in shown})
    rounded = {column: 4 for column in table.columns if "regret" in column}
    st.dataframe(table.round(rounded), width="stretch", hide_index=True, placeholder=MISSING, height="content")
    num = len({row.configuration_id for row in rows})
    st.caption(
        f"Means over the {num} configurations with λ of this study; a rule without an answer somewhere has fewer. "
        "Retrainings: how many retrained subsets the choice needs, beside the attributed model. Racing adds one subset "
        "at a time and stops once the leader is within .01 of the best at 95 % confidence; racing and the best λ are "
        "judged by the subsets that chose them, so their regret is a little too good."
    )
    csv_button(table, "rules")
    _show_race(context)


def _show_race(context: Context) -> None:
    found = context.opened.race(context.alpha)
    if not found:
        return
    race = record(found, Race)
    at = "" if race.regularization is None else f", λ = {regularization_text(race.regularization)}"
    st.markdown(
        f"**All configurations raced against each other** ({race.num_candidates} candidates: method, epoch, k "
        f"and λ together): {plain(race.sentence)} Winner: {plain(race.label)}{at}, LDS "
        f"{signed(race.lds, 3)}, {signed(race.regret, 4)} below the best after all "
        f"{race.num_subsets} subsets."
    )


@dataclass(frozen=True)
class _Best:
    """The configuration of a method whose λ* does best."""

    row: Configuration
    chosen: SelectionRow


def _show_all(context: Context) -> None:
    """Draw one row for each method with λ: the configuration whose λ* does best."""
    chosen = {row.configuration_id: row for row in records(context.opened.selections(context.alpha), SelectionRow)}
    known = context.configurations.among(chosen)
    if len(known.methods) < 2:
        return
    best = [_best(mine) for mine in _evaluated(known.by_method().values(), chosen)]
    st.subheader("All methods with λ", anchor=False)
    st.dataframe(_all_table(best).sort_values("regret"), width="stretch", hide_index=True, placeholder=MISSING)
    st.caption("Each at the configuration whose λ* gives its highest LDS, at the study's own threshold of ξ̄.")


def _evaluated(groups: Iterable[Configurations], chosen: Mapping[str, SelectionRow]) -> list[list[_Best]]:
    """Return each method's configurations whose LDS at λ* is known; methods without one are left out."""
    pairs = [[_Best(row, chosen[row.configuration_id]) for row in mine] for mine in groups]
    known = [[pair for pair in mine if pair.chosen.lds_selected is not None] for mine in pairs]
    return [mine for mine in known if mine]


def _best(pairs: Sequence[_Best]) -> _Best:
    return max(pairs, key=lambda pair: pair.chosen.lds_selected or 0.0)


def _all_table(best: Sequence[_Best]) -> pd.DataFrame:
    methods = services.methods()
    return pd.DataFrame(
        {
            "method": [each.row.variant_title for each in best],
            "epoch": [each.row.training_epoch for each in best],
            "k": [projection_text(each.row.projection_dim).removeprefix("k = ") for each in best],
            "λ*": [regularization_text(each.chosen.lambda_selected) for each in best],
            "LDS at λ*": _rounded(each.chosen.lds_selected for each in best),
            "best λ": [regularization_text(each.chosen.lambda_best) for each in best],
            "best LDS": _rounded(each.chosen.lds_best for each in best),
            "regret": _rounded(each.chosen.regret for each in best),
            "λ counts": ["relative to each layer" if each.row.is_relative else "absolute" for each in best],
            "curve": [methods[each.row.method].curve for each in best],
        }
    )


def _rounded(values: Iterable[float | None]) -> list[float | None]:
    return [None if value is None else round(value, 3) for value in values]


def _show_without(context: Context) -> None:
    names = context.configurations.with_lambda(False).methods.values()
    if names:
        st.caption(f"Without a λ to select: {joined([plain(name) for name in names])}. Methods shows their LDS.")
