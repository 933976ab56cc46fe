"""The tables of one evaluated configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from tda_backend.evaluation.by_layer import has_layers, select_by_layer
from tda_backend.evaluation.indicator import Indicator, indicator_curve
from tda_backend.evaluation.lds import lds_curve
from tda_backend.evaluation.rules import rule_regularizations
from tda_backend.evaluation.selection import Selection, regret, select_regularization, spectrum_quantiles
from tda_backend.seeds import hashed_seed
from tda_backend.spectral.contraction import ScoreMatrix, Source, admissible, num_queries, num_train, scores
from tda_backend.spectral.coordinates import Coordinates, Spectrum

INDICATOR_QUANTILES = {"q05": 0.05, "q25": 0.25, "q50": 0.5, "q75": 0.75, "q95": 0.95}
_QUERY_BLOCK = 128

Truth = Mapping[float, tuple[np.ndarray, np.ndarray]]
"""α → (masks ``[S, n]``, outputs ``[S, m]``)."""


def bootstrap_seed(study_seed: int) -> int:
    """Return the seed of the bootstrap over subsets: one per study, so that configurations are compared in pairs."""
    return hashed_seed("bootstrap", study_seed)


@dataclass(frozen=True)
class Evaluated:
    """One evaluated configuration.

    Attributes:
        tables: ``lds, lds_query, indicator, selections, rules, top_examples``, those that exist for its source.
        arrays: For every α: ``values_α`` float64 ``[L']`` (λ of the grid, λ*, what other rules choose; one NaN without
            λ), ``means_α`` float64 ``[L']`` (LDS), ``ranks_α`` uint16 ``[L', S, m]`` (twice the average rank of the
            summed scores over subsets) and ``draws_α`` float32 ``[B, L']`` (bootstrap means, paired between
            configurations).
        num_grid: How many of the values are the grid's; they come first, then λ*.
    """

    tables: dict[str, pa.Table | pd.DataFrame]
    arrays: dict[str, np.ndarray]
    num_grid: int = 1


def evaluated(source: Source, settings: Mapping[str, Any], truth: Truth) -> Evaluated:
    """Evaluate one configuration.

    The LDS grid is the study's grid and λ*; the quantile baselines are evaluated too and kept with the selection.
    """
    evaluation = settings["evaluation"]
    if isinstance(source, ScoreMatrix):
        tables: dict[str, Any] = {"top_examples": top_examples(source, None, evaluation["top"])}
        arrays: dict[str, np.ndarray] = {}
        if truth:
            lds_tables, _, arrays = _lds_tables(source, None, None, settings, truth)
            tables |= lds_tables
        return Evaluated(tables, arrays)
    wanted = list(settings["regularizations"])
    grid, chosen = grid_and_selection(source, wanted, evaluation["threshold"])
    if len(grid) < len(wanted):
        left_out = [f"{value:.3g}" for value in wanted if value not in grid]
        note = f"the method has no value at λ = {', '.join(left_out[:6])}{' …' if len(left_out) > 6 else ''}"
        chosen = replace(chosen, warnings=(*chosen.warnings, note))
    baselines = spectrum_quantiles(source, evaluation["quantiles"])
    present = set(admissible(source, [grid[-1], *baselines.values()]))
    quantiles = {quantile: value for quantile, value in baselines.items() if value in present}
    tables = {
        "indicator": _indicator_table(source, grid, chosen.regularization),
        "top_examples": top_examples(source, chosen.regularization, evaluation["top"]),
    }
    rules = rule_regularizations(source, settings["default_regularization"], quantiles=evaluation["quantiles"])
    tables["rules"] = pd.DataFrame({"rule": list(rules), "regularization": list(rules.values())})
    lds_at: dict[float, dict[float, tuple[float, float, float]]] = {}
    arrays = {}
    if truth:
        extra = [chosen.regularization, *dict.fromkeys([*quantiles.values(), *rules.values()])]
        lds_tables, lds_at, arrays = _lds_tables(source, grid, extra, settings, truth)
        tables |= lds_tables
        if has_layers(source):
            tables["layers"], by_layer = _by_layer(source, settings, truth)
            arrays |= by_layer
    rows = [
        _selection_row(alpha, chosen, quantiles, grid, lds_at.get(alpha), truth)
        for alpha in settings["alphas"]
    ]  # fmt: skip
    tables["selections"] = pa.Table.from_pylist(rows, schema=_SELECTION_SCHEMA)
    return Evaluated(tables, arrays, len(grid))


def _by_layer(
    source: Sequence[Spectrum], settings: Mapping[str, Any], truth: Truth
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Return every layer's own λ by ξ, and the LDS with them as ``layers_α`` (a number) for every α."""
    rescaled, chosen = select_by_layer(source, settings["evaluation"]["threshold"])
    found = {
        f"layers_{alpha:g}": np.array(lds_curve(rescaled, masks, outputs, [1.0], num_bootstrap=0).mean[0])
        for alpha, (masks, outputs) in truth.items()
    }
    return pd.DataFrame({"layer": list(chosen), "regularization": list(chosen.values())}), found


def grid_and_selection(
    source: Sequence[Coordinates], wanted: list[float], threshold: float
) -> tuple[list[float], Selection]:
    """Return those λ of a grid at which the method has a value, and λ* of Algorithm 1 among what is possible."""
    grid = admissible(source, wanted)
    return grid, _within(select_regularization(source, threshold), source, grid)


def _within(chosen: Selection, source: Sequence[Coordinates], grid: list[float]) -> Selection:
    """Return the selection, moved to the nearest λ of the grid where the method has no value at λ*."""
    if chosen.regularization in admissible(source, [grid[-1], chosen.regularization]):
        return chosen
    positive = [value for value in grid if value > 0] or grid
    nearest = min(positive, key=lambda value: abs(np.log(max(value, 1e-300) / chosen.regularization)))
    note = f"λ* = {chosen.regularization:.3g} is not possible with this method; the nearest of the grid is taken"
    xi = float(Indicator(source).mean([nearest])[0])
    return replace(chosen, regularization=nearest, xi=xi, warnings=(*chosen.warnings, note))


def _lds_tables(
    source: Source, grid: list[float] | None, extra: list[float] | None, settings: Mapping[str, Any], truth: Truth
) -> tuple[dict[str, pa.Table], dict[float, dict[float, tuple[float, float, float]]], dict[str, np.ndarray]]:
    """Return LDS tables over grid ∪ {λ*} (``extra[0]``), LDS with interval by α and λ for all of ``extra``, arrays."""
    rows: list[dict[str, Any]] = []
    per_query: list[dict[str, Any]] = []
    found: dict[float, dict[float, tuple[float, float, float]]] = {}
    arrays: dict[str, np.ndarray] = {}
    values = None if grid is None else [*grid, *(extra or [])]
    kept = 1 if grid is None else len(grid) + 1
    for alpha, (masks, outputs) in truth.items():
        curve = lds_curve(
            source, masks, outputs, values,
            num_bootstrap=settings["evaluation"]["bootstrap"], seed=bootstrap_seed(settings["seed"]),
            keep_bootstrap=True, keep_ranks=True,
        )  # fmt: skip
        arrays[f"values_{alpha:g}"] = curve.regularizations
        arrays[f"means_{alpha:g}"] = curve.mean
        arrays[f"ranks_{alpha:g}"] = np.asarray(curve.predicted_ranks)
        arrays[f"draws_{alpha:g}"] = np.asarray(curve.bootstrap_means, dtype=np.float32)
        found[alpha] = {}
        for index, value in enumerate([None] if values is None else values):
            mean, low, high = (float(part[index]) for part in (curve.mean, curve.ci_low, curve.ci_high))
            if value is not None:
                found[alpha][value] = (mean, low, high)
            if index >= kept:
                continue
            common = {"alpha": alpha, "regularization": value, "num_subsets": curve.num_subsets}
            rows.append({
                **common, "mean": mean, "ci_low": low, "ci_high": high,
                "num_undefined": int(curve.num_undefined[index]), "is_selected": grid is not None and index == kept - 1,
            })  # fmt: skip
            per_query.append({**common, "lds": curve.per_query[index].astype(np.float32)})
    tables = {
        "lds": pa.Table.from_pylist(rows, schema=_LDS_SCHEMA),
        "lds_query": pa.Table.from_pylist(per_query, schema=_LDS_QUERY_SCHEMA),
    }
    return tables, found, arrays


def _indicator_table(source: Sequence, grid: list[float], selected: float) -> pd.DataFrame:
    values = [*grid, selected]
    frame = indicator_frame(source, values)
    frame["is_selected"] = [False] * len(grid) + [True]
    return frame


def indicator_frame(spectra: Sequence, regularizations: Sequence[float]) -> pd.DataFrame:
    """Return ξ(λ): regularization, mean, quantiles over the validation points, num_dropped."""
    curve = indicator_curve(spectra, regularizations)
    frame = pd.DataFrame({"regularization": list(regularizations), "mean": curve.mean})
    for name, quantile in INDICATOR_QUANTILES.items():
        frame[name] = np.nanquantile(curve.per_point, quantile, axis=1)
    frame["num_dropped"] = int(curve.num_dropped)
    return frame


def _selection_row(
    alpha: float,
    chosen: Any,
    quantiles: Mapping[float, float],
    grid: list[float],
    lds: Mapping[float, tuple[float, float, float]] | None,
    truth: Truth,
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "alpha": alpha,
        "lambda_selected": chosen.regularization,
        "xi_at_selected": chosen.xi,
        "threshold": chosen.threshold,
        "num_crossings": len(chosen.crossings),
        "warnings": list(chosen.warnings),
        "num_subsets": len(truth[alpha][0]) if lds else 0,
    }
    baselines: dict[str, dict[str, Any]] = {
        f"{quantile:g}": {"lambda": value, "lds": None, "regret": None} for quantile, value in quantiles.items()
    }
    if lds:
        means = [lds[value][0] for value in grid]
        mean, low, high = lds[chosen.regularization]
        best = regret(grid, means, chosen.regularization, mean)
        row |= {
            "lds_selected": mean, "lds_selected_low": low, "lds_selected_high": high,
            "lambda_best": best.regularization_best, "lds_best": best.lds_best, "regret": best.regret,
            "lds_at_zero": lds[0.0][0] if 0.0 in lds else None,
        }  # fmt: skip
        for entry in baselines.values():
            entry["lds"] = lds[entry["lambda"]][0]
            # Against the best over grid ∪ {λ*}: a quantile that beats it has negative regret, and is reported so.
            entry["regret"] = best.lds_best - entry["lds"]
    return {**row, "quantiles": json.dumps(baselines)}


def top_examples(source: Source, regularization: float | None, num: int) -> pa.Table:
    """Return the most helpful and most harmful training positions of every query at one λ."""
    count = min(num, num_train(source))
    columns: dict[str, list] = {name: [] for name in ("helpful", "helpful_scores", "harmful", "harmful_scores")}
    total = num_queries(source)
    for start in range(0, total, _QUERY_BLOCK):
        block = torch.from_numpy(scores(source, regularization, list(range(start, min(start + _QUERY_BLOCK, total)))))
        for name, largest in (("helpful", True), ("harmful", False)):
            best = block.topk(count, dim=1, largest=largest)
            columns[name].extend(best.indices.to(torch.int32).numpy())
            columns[f"{name}_scores"].extend(best.values.numpy())
    return pa.table(
        {
            "query": pa.array(range(total), pa.int32()),
            "regularization": pa.array([regularization] * total, pa.float64()),
            "helpful": pa.array(columns["helpful"], pa.list_(pa.int32())),
            "helpful_scores": pa.array(columns["helpful_scores"], pa.list_(pa.float32())),
            "harmful": pa.array(columns["harmful"], pa.list_(pa.int32())),
            "harmful_scores": pa.array(columns["harmful_scores"], pa.list_(pa.float32())),
        }
    )


_LDS_SCHEMA = pa.schema([
    ("alpha", pa.float64()), ("regularization", pa.float64()), ("num_subsets", pa.int32()), ("mean", pa.float64()),
    ("ci_low", pa.float64()), ("ci_high", pa.float64()), ("num_undefined", pa.int32()), ("is_selected", pa.bool_()),
])  # fmt: skip
_LDS_QUERY_SCHEMA = pa.schema([
    ("alpha", pa.float64()), ("regularization", pa.float64()), ("num_subsets", pa.int32()),
    ("lds", pa.list_(pa.float32())),
])  # fmt: skip
_SELECTION_SCHEMA = pa.schema([
    ("alpha", pa.float64()), ("lambda_selected", pa.float64()), ("xi_at_selected", pa.float64()),
    ("threshold", pa.float64()), ("num_crossings", pa.int32()), ("warnings", pa.list_(pa.string())),
    ("num_subsets", pa.int32()), ("lds_selected", pa.float64()), ("lds_selected_low", pa.float64()),
    ("lds_selected_high", pa.float64()), ("lambda_best", pa.float64()), ("lds_best", pa.float64()),
    ("regret", pa.float64()), ("lds_at_zero", pa.float64()), ("quantiles", pa.string()),
])  # fmt: skip
