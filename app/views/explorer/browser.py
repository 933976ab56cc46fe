"""What the browser gets: numbers in base64, curves, presets and sentences, as the JSON that ``explorer.js`` reads."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from app import services
from app.formats import lds_text, regularization_text
from app.session import Context
from app.shared.curves import LAMBDA_TITLE, RELATIVE_TITLE
from app.views.explorer.data import NUM_RANK_STEPS, NUM_SHOWN, ExplorerNumbers
from tda_backend.interfaces.reading.payload import Payload
from tda_backend.interfaces.reading.records.base import records
from tda_backend.interfaces.reading.records.curves import IndicatorPoint, LdsPoint, QueryPoint
from tda_backend.interfaces.reading.records.selections import Selection


def _bytes(values: Any, dtype: str) -> str:
    """Return numbers as the browser reads them: little-endian, in base64."""
    return base64.b64encode(np.ascontiguousarray(values, dtype=dtype).tobytes()).decode()


def factors_json(payload: Payload) -> dict[str, Any]:
    """Return one query's factors and its filter: what ``prepareFilter``, ``weigh`` and ``multiply`` need."""
    table = payload.table
    return {
        "filter": payload.filter_name,
        "parameters": payload.parameters,
        "eigenvalues": _bytes(payload.eigenvalues, "<f4"),
        "products": _bytes(payload.products, "<f4"),
        "parts": list(payload.parts),
        "coordinates": _bytes([] if payload.coordinates is None else payload.coordinates, "<f8"),
        "outside": list(payload.outside),
        "table": None
        if table is None
        else {"regularizations": table.regularizations.tolist(), "weights": _bytes(table.weights, "<f4")},
    }


def numbers_json(numbers: ExplorerNumbers) -> dict[str, Any]:
    """Return factors, cards, pictures and ranks over training seeds."""
    ranks = numbers.ranks
    return {
        **factors_json(numbers.payload),
        "cards": numbers.cards,
        "sprite": numbers.sprite,
        "num": NUM_SHOWN,
        "numTrain": numbers.payload.num_train,
        "ranks": None if ranks is None else {"grid": ranks.grid, "values": _bytes(ranks.values, "<i4")},
        "numSeeds": numbers.num_seeds,
    }


def explorer_json(context: Context, numbers: ExplorerNumbers, lam: dict[str, Any]) -> dict[str, Any]:
    """Return everything the browser shows: numbers, pictures, curves, presets and where λ starts."""
    opened, view, chosen = context.opened, context.view, context.chosen
    curve = records(opened.curve(chosen.configuration_id, context.alpha), LdsPoint)
    curve.sort(key=lambda row: row.regularization or 0.0)
    selection = context.selection(chosen.configuration_id) if chosen.has_regularization else None
    presets = presets_json(selection) if chosen.has_regularization else []
    grid = context.facts.positive
    filtered = f"{view.query}/{view.classes}/{view.right}"
    return {
        **numbers_json(numbers),
        "key": f"{opened.study_id}/{chosen.configuration_id}/{filtered}/{presets}",
        "hasLambda": chosen.has_regularization,
        "lambdaTitle": RELATIVE_TITLE if chosen.is_relative else LAMBDA_TITLE,
        "blocks": _relative_layers(context),
        "kind": curve_kind(context, numbers.payload),
        "range": [min(grid), max(grid)],
        "queryLabel": str(services.examples(opened, "queries")[context.query].label),
        "presets": presets,
        "lds": _lds_json(context, curve) if chosen.has_regularization and curve else None,
        "xi": _indicator_json(context) if chosen.has_regularization else None,
        "note": _note(context, curve, numbers),
        "lambda": lam,
    }


def _relative_layers(context: Context) -> list[dict[str, Any]]:
    """Return the layers whose absolute λ is worth saying: d·s of each where λ is relative."""
    if not context.chosen.is_relative:
        return []
    layers = services.layers(context.opened, context.configuration_id)
    return [{"name": layer.name, "size": layer.size, "scale": layer.scale} for layer in layers]


def curve_kind(context: Context, payload: Payload) -> str:
    """Return in one sentence what the curve over λ is."""
    configuration = context.chosen
    title, kind = configuration.variant_title, services.methods()[configuration.method].curve
    if payload.table is not None:
        return f"{title} · {kind}; between the computed λ the scores are interpolated."
    if kind == "exact filter":
        return f"{title} · exact filter: every λ is the method's own answer, not an interpolation."
    if kind == "mean of a stochastic method":
        return f"{title} · mean of a stochastic method: what many runs average to; a single run scatters around it."
    if kind == "measured run":
        own = dict(configuration.settings).get("regularization")
        at = "" if own is None else f" at λ = {own}"
        return f"{title} · measured run: computed once{at} as published, so there is one ranking and no curve."
    return f"{title} · no λ: one ranking."


def presets_json(selection: Selection | None) -> list[dict[str, Any]]:
    """Return the values of λ that a click takes: 0, λ* and the best of the grid, as far as they are known."""
    presets = [{"label": "λ = 0", "value": 0.0, "kind": "zero", "title": "No damping: the pseudo-inverse"}]
    if selection is not None and selection.lambda_selected is not None:
        text = regularization_text(selection.lambda_selected)
        title = f"λ* of the surrogate indicator, no retraining needed: {text}"
        presets.append({"label": f"λ* {text}", "value": selection.lambda_selected, "kind": "selected", "title": title})
    if selection is not None and selection.lambda_best is not None:
        text = regularization_text(selection.lambda_best)
        title = f"The λ with the highest LDS known, {lds_text(selection.lds_best)}: {text}"
        presets.append({"label": f"best λ {text}", "value": selection.lambda_best, "kind": "best", "title": title})
    return presets


def _lds_json(context: Context, curve: Sequence[LdsPoint]) -> dict[str, Any]:
    found = context.opened.query_curve(context.configuration_id, context.query, context.alpha)
    own = {row.regularization: row.lds for row in records(found, QueryPoint)}
    mine = [own.get(row.regularization, math.nan) for row in curve]
    num_subsets, planned = max(row.num_subsets for row in curve), context.facts.num_subsets
    count = f"{num_subsets} of {planned} subsets" if num_subsets < planned else f"{num_subsets} subsets"
    return {
        "x": [row.regularization for row in curve],
        "mean": [row.mean for row in curve],
        "low": [row.ci_low for row in curve],
        "high": [row.ci_high for row in curve],
        "query": None if any(math.isnan(value) for value in mine) else mine,
        "title": f"LDS: mean of {context.opened.num_queries} queries with 95 % band ({count}); dashed: this query",
        "brief": f"LDS, 95 % band ({count}); dashed: this query",
        "alt": "LDS against λ: mean over queries with its 95 % band, and this query's own",
    }


def _indicator_json(context: Context) -> dict[str, Any] | None:
    curve = records(context.opened.indicator_curve(context.configuration_id), IndicatorPoint)
    if not curve:
        return None
    curve.sort(key=lambda row: row.regularization)
    return {
        "x": [row.regularization for row in curve],
        "mean": [row.mean for row in curve],
        "low": [row.q05 for row in curve],
        "high": [row.q95 for row in curve],
        "threshold": context.view.xi,
        "title": "ξ̄: surrogate indicator, mean and 5 to 95 % of validation points; λ* where it crosses the threshold",
        "brief": "ξ̄ (surrogate indicator), 5 to 95 %",
        "alt": "Surrogate indicator ξ against λ: mean and spread over validation points",
    }


def _note(context: Context, curve: Sequence[LdsPoint], numbers: ExplorerNumbers) -> str:
    sentences = []
    if numbers.ranks is not None:
        filtered = context.view.classes or context.view.right
        among = "all training examples" + (", not only those that pass the filter" if filtered else "")
        sentences.append(
            f"“seeds” under a card: its lowest and highest rank over {numbers.num_seeds} training seeds among "
            f"{among}, at the nearest of {NUM_RANK_STEPS} λ; the number above it ranks what is shown."
        )
    if not numbers.cards:
        sentences.append("No training example passes the filter: choose more classes, or both right and wrong.")
    if not context.chosen.has_regularization:
        sentences.append(f"{context.chosen.variant_title} has no λ to move: its ranking is one and fixed.")
        sentences += [f"LDS {lds_text(row.mean, row.ci_low, row.ci_high)}." for row in curve[:1]]
    elif not curve:
        sentences.append("The LDS curve appears once subsets have been retrained.")
    return " ".join(sentences)
