"""The live explorer as a page element: Python sends one query's factors, the browser does every λ by itself."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from app import explorer_data, services, session
from app.charts import LAMBDA_TITLE, RELATIVE_TITLE
from app.explorer_data import NUM_RANK_STEPS
from app.formats import lds_text, regularization_text
from app.session import Context

_FOLDER = Path(__file__).parent
_PARTS = ("explorer_numbers.js", "explorer_filters.js", "explorer_view.js", "explorer.js")
_MOUNT = """
export default function ({ parentElement, data, setStateValue }) {
  return explorer(parentElement, data, (lambda) => setStateValue("lam", lambda));
}
"""


def explorer_module() -> str:
    """Return the explorer's JavaScript: one plain module that exports ``explorer(root, payload, onRest)``."""
    return "\n".join((_FOLDER / name).read_text(encoding="utf-8") for name in _PARTS)


_element = st.components.v2.component(
    "tda_explorer", css=(_FOLDER / "explorer.css").read_text(encoding="utf-8"), js=explorer_module() + _MOUNT
)


def explorer_payload(context: Context, lam: dict[str, Any]) -> dict[str, Any]:
    """Return everything the browser shows: numbers, pictures, curves, presets and where λ starts."""
    opened, view, identity = context.opened, context.view, context.configuration_id
    assert context.configuration is not None
    has_lambda = bool(context.configuration["has_regularization"])
    waiting = contextlib.nullcontext()
    if services.methods()[view.method].recipe == "kronecker":  # made anew for each query, which takes seconds
        waiting = st.spinner("Computing this query's scores from the factors of every layer")
    with waiting:
        numbers = explorer_data.explorer_numbers(opened, identity, view.query or 0, view.classes, view.right)
    query = opened.examples("queries").set_index("position").loc[view.query or 0]
    curve = opened.curve(identity, context.alpha).sort_values("regularization")
    selection = opened.selection(identity, context.alpha) if has_lambda else {}
    grid = [value for value in opened.info["regularizations"] if value > 0]
    presets = _presets(selection) if has_lambda else []
    return {
        **numbers,
        "key": f"{opened.study_id}/{identity}/{view.query}/{view.classes}/{view.right}/{presets}",
        "hasLambda": has_lambda,
        "lambdaTitle": RELATIVE_TITLE if is_relative(context) else LAMBDA_TITLE,
        "blocks": _relative_blocks(context),
        "kind": curve_kind(context),
        "range": [min(grid), max(grid)],
        "queryLabel": str(query["label"]),
        "presets": presets,
        "lds": _lds_curve(context, curve) if has_lambda and len(curve) else None,
        "xi": _xi_curve(context) if has_lambda else None,
        "note": _note(context, curve, numbers),
        "lambda": lam,
    }


def is_relative(context: Context) -> bool:
    """Return whether λ counts in units of each layer's mean curvature."""
    return context.configuration is not None and context.configuration["settings"].get("damping") == "relative"


def _relative_blocks(context: Context) -> list[dict[str, Any]]:
    """Return the layers whose absolute λ is worth saying: d·s of each where λ is relative."""
    return services.blocks(context.opened, context.configuration_id) if is_relative(context) else []


def curve_kind(context: Context) -> str:
    """Return in one sentence what the curve over λ is."""
    assert context.configuration is not None
    spec = services.methods()[context.view.method]
    title, settings = context.configuration["variant_title"], context.configuration["settings"]
    if spec.curve == "exact filter":
        return f"{title} · exact filter: every λ is the method's own answer, not an interpolation."
    if spec.curve == "mean of a stochastic method":
        return f"{title} · mean of a stochastic method: what many runs average to; a single run scatters around it."
    if spec.curve == "measured run":
        at = f" at λ = {settings['regularization']}" if "regularization" in settings else ""
        return f"{title} · measured run: computed once{at} as published, so there is one ranking and no curve."
    return f"{title} · no λ: one ranking."


def _presets(selection: dict[str, Any]) -> list[dict[str, Any]]:
    presets = [{"label": "λ = 0", "value": 0.0, "kind": "zero", "title": "No damping: the pseudo-inverse"}]
    if selection.get("lambda_selected") is not None:
        value = selection["lambda_selected"]
        title = f"λ* of the surrogate indicator, no retraining needed: {regularization_text(value)}"
        presets.append(
            {"label": f"λ* {regularization_text(value)}", "value": value, "kind": "selected", "title": title}
        )
    if selection.get("lambda_best") is not None:
        value = selection["lambda_best"]
        title = f"The grid's best LDS: {lds_text(selection['lds_best'])} at λ = {regularization_text(value)}"
        label = f"best LDS {regularization_text(value)}"
        presets.append({"label": label, "value": value, "kind": "best", "title": title})
    return presets


def _lds_curve(context: Context, curve: pd.DataFrame) -> dict[str, Any]:
    own = context.opened.query_curve(context.configuration_id, context.view.query or 0, context.alpha)
    own = own.set_index("regularization")["lds"].reindex(curve["regularization"])
    num_subsets, planned = int(curve["num_subsets"].max()), context.opened.info["num_subsets"]
    count = f"{num_subsets} of {planned} subsets" if num_subsets < planned else f"{num_subsets} subsets"
    return {
        "x": curve["regularization"].tolist(),
        "mean": curve["mean"].tolist(),
        "low": curve["ci_low"].tolist(),
        "high": curve["ci_high"].tolist(),
        "query": own.tolist() if own.notna().all() else None,
        "title": f"LDS: mean of {context.opened.num_queries} queries with 95 % band ({count}); dashed: this query",
        "brief": f"LDS, 95 % band ({count}); dashed: this query",
        "alt": "LDS against λ: mean over queries with its 95 % band, and this query's own",
    }


def _xi_curve(context: Context) -> dict[str, Any] | None:
    curve = context.opened.indicator_curve(context.configuration_id).sort_values("regularization")
    if not len(curve):
        return None
    return {
        "x": curve["regularization"].tolist(),
        "mean": curve["mean"].tolist(),
        "low": curve["q05"].tolist(),
        "high": curve["q95"].tolist(),
        "threshold": context.view.xi,
        "title": "ξ̄: surrogate indicator, mean and 5 to 95 % of validation points; λ* where it crosses the threshold",
        "brief": "ξ̄ (surrogate indicator), 5 to 95 %",
        "alt": "Surrogate indicator ξ against λ: mean and spread over validation points",
    }


def _note(context: Context, curve: pd.DataFrame, numbers: dict[str, Any]) -> str:
    assert context.configuration is not None
    sentences = []
    if numbers["ranks"]:
        filtered = context.view.classes or context.view.right
        among = "all training examples" + (", not only those that pass the filter" if filtered else "")
        sentences.append(
            f"“seeds” under a card: its lowest and highest rank over {numbers['numSeeds']} training seeds among "
            f"{among}, at the nearest of {NUM_RANK_STEPS} λ; the number above it ranks what is shown."
        )
    if not numbers["cards"]:
        sentences.append("No training example passes the filter: choose more classes, or both right and wrong.")
    if not context.configuration["has_regularization"]:
        sentences.append(f"{context.configuration['variant_title']} has no λ to move: its ranking is one and fixed.")
        if len(curve):
            row = curve.iloc[0]
            sentences.append(f"LDS {lds_text(row['mean'], row['ci_low'], row['ci_high'])}.")
    elif not len(curve):
        sentences.append("The LDS curve appears once subsets have been retrained.")
    return " ".join(sentences)


def start_of_regularization(view_lam: float | None) -> dict[str, Any]:
    """Return λ for the payload with a sequence number that grows only when λ came from outside the element.

    What the element itself reported comes back with the old number, so the payload stays the same bytes and a person
    who has moved on meanwhile is not pulled back.
    """
    known = st.session_state.get("explorer_lambda")
    if known is None or known["value"] != view_lam:
        sent = {"sequence": known["sent"]["sequence"] + 1 if known else 1, "value": view_lam or 0.0}
        known = {"value": view_lam, "sent": sent}
        st.session_state["explorer_lambda"] = known
    return known["sent"]


def show_explorer(context: Context, key: str = "explorer") -> None:
    """Draw the explorer of the present query and configuration."""

    def rested() -> None:
        value = st.session_state[key].get("lam")
        if value is None or float(value) < 0:
            return
        session.update(lam=float(value))
        written = session.view().lam  # as the URL rounds it, which is what the next run reads
        st.session_state["explorer_lambda"] = {**st.session_state["explorer_lambda"], "value": written}

    _element(key=key, data=explorer_payload(context, start_of_regularization(context.view.lam)), on_lam_change=rested)
