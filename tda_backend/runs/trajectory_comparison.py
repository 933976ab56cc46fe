"""The steps that hold predictions against the truth: of one run, and as the mean over the seeds of a learning rate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from tda_backend.evaluation.bootstrap import multinomial_weights
from tda_backend.runs.context import RunContext
from tda_backend.runs.evaluate_step import bootstrap_seed
from tda_backend.runs.plan import Step
from tda_backend.runs.trajectory_steps import score_file, variants_of
from tda_backend.store.artifacts import Artifact, ArtifactWriter
from tda_backend.trajectory.unrolled.agreement import (
    Estimate,
    MatchingGain,
    RankAgreement,
    effect_agreement,
    error_agreement,
    error_size,
    matching_gain,
    mean_agreement,
    mean_estimate,
)
from tda_backend.trajectory.unrolled.error_proxy import small_proxy
from tda_backend.trajectory.unrolled.removal import VARIANTS

SHOWN_QUERIES = 24
"""Queries whose effects the catalogue holds one by one."""
_FEWEST = 3
"""Removed examples that must have been seen before an error has a size."""
ESTIMATORS = ("proxy", "cheap")
SOUND = "sound"
"""The proxy where it is small beside the prediction."""
_SIZES = ("mean_effect", "mean_error", "relative_error")


class _Run:
    """What is stored of one run: predictions, truth and, where asked for, the proxies."""

    def __init__(self, context: RunContext, step: Step) -> None:
        self._inputs = {role: context.store.open(keys[0]) for role, keys in step.inputs.items() if role != "examples"}
        self.influence, self.truth = self._inputs["influence"], self._inputs["truth"]
        self.proxy: Artifact | None = self._inputs.get("proxy")
        self.variants = variants_of(self.influence.manifest["settings"]["curvatures"])
        self.positions = self.truth.array("positions")
        self.horizons = self.truth.array("horizons").tolist()

    def predicted(self, number: int = 0) -> np.ndarray:
        """Return the predictions of a variant, ``[R, m]``; the last one assumes SGD."""
        return np.asarray(self.influence.array(score_file(self.variants[number])), dtype=np.float64)

    def effects(self, variant: str) -> np.ndarray:
        """Return the true effects at the end, ``[R, m]``."""
        return np.asarray(self.truth.array(f"effects_{variant}"))


def run_comparison(context: RunContext, step: Step, writer: ArtifactWriter) -> None:
    """Store how predictions of one run agree with the truth, and what they miss."""
    run = _Run(context, step)
    draws = {"num_bootstrap": step.settings["bootstrap"], "seed": bootstrap_seed(step.settings["seed"])}
    agreements = {
        (variant.assume, variant.curvature, truth): effect_agreement(run.predicted(number), run.effects(truth), **draws)
        for number, variant in enumerate(run.variants) for truth in VARIANTS
    }  # fmt: skip
    size = {"num_removed": len(run.positions), "num_queries": run.predicted().shape[1]}
    writer.facts |= {"agreements": [list(key) for key in agreements], **size}
    writer.array("agreement_draws", np.stack([each.draws for each in agreements.values()]))
    writer.array("agreement_points", np.stack([each.per_point for each in agreements.values()]))
    _write_agreements(writer, agreements, size)
    writer.table("trajectory_runs", _run_table(run))
    writer.table("trajectory_effects", _effect_table(run))
    if run.proxy is not None:
        errors = _errors(run, run.proxy, draws)
        writer.table("trajectory_errors", _error_table(errors))
        writer.table("trajectory_paths", _path_table(run, run.proxy))
        writer.facts["errors"] = [[name, step_number] for name, step_number in errors]
        growth = _growth(run, run.proxy, step.settings)
        if growth is not None:
            writer.array("growth_values", growth[0])
            writer.array("growth_draws", growth[1])
        for name in ("relative", "pearson", "spearman"):
            writer.array(f"{name}_draws", np.stack([each[name].draws for each in errors.values()]))
        numbers = ("mean_effect", "mean_error", "relative_error", "pearson", "spearman", "slope", "num_removed")
        writer.array("error_values", np.array([[_number(each[name]) for name in numbers] for each in errors.values()]))


Errors = dict[tuple[str, int], dict[str, Any]]
"""(estimator, step) → sizes of the error as numbers, and estimates with their draws."""


def _errors(run: _Run, proxy: Artifact, draws: Mapping[str, Any]) -> Errors:
    """Return error and estimates over the steps, of effects on the mean loss of the queries."""
    truth, predicted = np.asarray(run.truth.array("horizons_fixed")), np.asarray(proxy.array("prediction_at"))
    first_seen = np.array([steps[0] for steps in run.truth.manifest["seen"]])
    found: Errors = {}
    for estimator, name in zip(ESTIMATORS, ("full_at", "cheap_at"), strict=True):
        estimates = np.asarray(proxy.array(name))
        for number, horizon in enumerate(run.horizons):
            seen = first_seen <= horizon
            if seen.sum() >= _FEWEST:
                found[estimator, horizon] = _error(truth[number], predicted[number], estimates[number], seen, draws)
    sound = _sound(proxy)
    if sound.sum() >= _FEWEST:
        last = np.asarray(proxy.array("full_at"))[-1]
        found[SOUND, run.horizons[-1]] = _error(truth[-1], predicted[-1], last, sound, draws)
    return found


def _growth(run: _Run, proxy: Artifact, settings: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the relative error after the first and after the last steps, of the same examples, and its draws.

    The same are those that the first horizon has seen; draws are of all removed examples, which all runs share, so that
    they stay paired between horizons and between seeds.

    Returns:
        ``[2]`` and ``[2, B]``; ``None`` where there is one horizon, or too few have been seen by the first.
    """
    first_seen = np.array([steps[0] for steps in run.truth.manifest["seen"]])
    early = first_seen <= run.horizons[0]
    if len(run.horizons) < 2 or early.sum() < _FEWEST:
        return None
    truth, predicted = np.asarray(run.truth.array("horizons_fixed")), np.asarray(proxy.array("prediction_at"))
    weights = multinomial_weights(len(early), settings["bootstrap"], bootstrap_seed(settings["seed"])) * early
    values, draws = [], []
    for place in (0, -1):
        errors, effects = np.abs(truth[place] - predicted[place]), np.abs(truth[place])
        values.append(errors[early].sum() / effects[early].sum())
        below = weights @ effects
        draws.append(np.divide(weights @ errors, below, out=np.full(len(weights), np.nan), where=below > 0))
    return np.array(values), np.stack(draws)


def _sound(proxy: Artifact) -> np.ndarray:
    """Return where the second order is a correction of the first, bool ``[R]``."""
    full, prediction = (torch.from_numpy(np.array(proxy.array(name))) for name in ("full", "prediction"))
    return small_proxy(full, prediction).numpy()


def _error(
    truth: np.ndarray, predicted: np.ndarray, estimate: np.ndarray, kept: np.ndarray, draws: Mapping[str, Any]
) -> dict[str, Any]:
    """Return sizes and agreement of the error over the removed examples that are kept, all ``[R]``."""
    true, linear = truth[kept], predicted[kept]
    size, agreement = error_size(linear, true, **draws), error_agreement(estimate[kept], true - linear, **draws)
    return {
        "mean_effect": size.mean_effect, "mean_error": size.mean_error, "relative_error": size.relative,
        "relative": size.relative, "pearson": agreement.pearson, "spearman": agreement.spearman,
        "slope": agreement.slope, "num_removed": int(kept.sum()),
    }  # fmt: skip


def _number(value: Any) -> float:
    return value.value if isinstance(value, Estimate) else float(value)


def run_summary(context: RunContext, step: Step, writer: ArtifactWriter) -> None:
    """Store the means over the seeds of one learning rate, and what claims compare."""
    runs = [context.store.open(key) for key in step.inputs["comparisons"]]
    facts = runs[0].manifest
    stacked = [list(zip(run.array("agreement_points"), run.array("agreement_draws"), strict=True)) for run in runs]
    agreements: dict[tuple[str, str, str], RankAgreement] = {}
    for number, key in enumerate(facts["agreements"]):
        agreements[tuple(key)] = mean_agreement([_restored(*each[number]) for each in stacked])
    _write_agreements(writer, agreements, {name: facts[name] for name in ("num_removed", "num_queries")})
    _, curvature, _ = facts["agreements"][0]
    measured = {
        "matched": agreements["as trained", curvature, VARIANTS[0]].mean,
        "mismatched": agreements["sgd", curvature, VARIANTS[0]].mean,
    }
    if "errors" in facts:
        errors = _mean_errors(runs)
        writer.table("trajectory_errors", _error_table(errors))
        steps = [horizon for name, horizon in errors if name == ESTIMATORS[0]]
        measured |= {
            "error last": errors[ESTIMATORS[0], steps[-1]]["relative_error"],
            **{name: errors[name, steps[-1]]["spearman"] for name in ESTIMATORS},
            "proxy pearson": errors[ESTIMATORS[0], steps[-1]]["pearson"],
        }
        if all("growth_values.npy" in run.manifest["files"] for run in runs):
            values, draws = (np.mean([run.array(f"growth_{what}") for run in runs], 0) for what in ("values", "draws"))
            for end, value, drawn in zip(("first", "last"), values, draws, strict=True):
                measured[f"growth {end}"] = Estimate(float(value), np.nan, np.nan, drawn)
    writer.facts |= {"measured": list(measured), "learning_rate": step.settings["learning_rate"]}
    writer.array("values", np.array([each.value for each in measured.values()]))
    writer.array("draws", np.stack([each.draws for each in measured.values()], axis=1))


def _restored(points: np.ndarray, draws: np.ndarray) -> RankAgreement:
    known = points[~np.isnan(points)]
    value = float(known.mean()) if len(known) else float("nan")
    return RankAgreement(points, Estimate(value, np.nan, np.nan, draws), draws, int(np.isnan(points).sum()))


def _mean_errors(runs: list[Artifact]) -> Errors:
    """Return the means over runs of what all of them have: early steps may lack examples under some seeds."""
    known = [{(name, int(at)): row for row, (name, at) in enumerate(run.manifest["errors"])} for run in runs]
    found: Errors = {}
    for key in known[0]:
        if not all(key in rows for rows in known):
            continue
        places = [(run, rows[key]) for run, rows in zip(runs, known, strict=True)]
        values = np.mean([run.array("error_values")[row] for run, row in places], axis=0)
        relative = _mean_of(places, "relative_draws", values[2])
        found[key] = {
            "mean_effect": values[0], "mean_error": values[1], "relative_error": relative, "relative": relative,
            "pearson": _mean_of(places, "pearson_draws", values[3]),
            "spearman": _mean_of(places, "spearman_draws", values[4]), "slope": values[5],
            "num_removed": int(values[6]),
        }  # fmt: skip
    return found


def _mean_of(places: list[tuple[Artifact, int]], name: str, value: float) -> Estimate:
    return mean_estimate([Estimate(value, np.nan, np.nan, np.asarray(run.array(name)[row])) for run, row in places])


def _write_agreements(
    writer: ArtifactWriter, agreements: Mapping[tuple[str, str, str], RankAgreement], size: Mapping[str, int]
) -> None:
    rows = [
        {"assumed": assumed, "curvature": curvature, "variant": truth, "mean": each.mean.value,
         "ci_low": each.mean.low, "ci_high": each.mean.high, **size, "num_undefined": each.num_undefined}
        for (assumed, curvature, truth), each in agreements.items()
    ]  # fmt: skip
    writer.table("trajectory_agreement", pa.Table.from_pylist(rows, schema=_AGREEMENT_SCHEMA))
    gains = [
        {"curvature": curvature, "variant": truth,
         **_gain_row(matching_gain(agreements["as trained", curvature, truth], each))}
        for (assumed, curvature, truth), each in agreements.items() if assumed == "sgd"
    ]  # fmt: skip
    writer.table("trajectory_gains", pa.Table.from_pylist(gains, schema=_GAIN_SCHEMA))


def _gain_row(gain: MatchingGain) -> dict[str, float]:
    return {
        "matched": gain.matched, "mismatched": gain.mismatched, "difference": gain.difference.value,
        "difference_low": gain.difference.low, "difference_high": gain.difference.high, "ratio": gain.ratio.value,
        "ratio_low": gain.ratio.low, "ratio_high": gain.ratio.high,
    }  # fmt: skip


def _run_table(run: _Run) -> pa.Table:
    facts = run.truth.manifest
    row = {name: facts[name] for name in ("optimizer", "num_steps", "steps_per_epoch", "num_parameters")}
    row |= {"rates": run.truth.array("rates"), "steps": run.horizons, "losses": run.truth.array("losses")}
    return pa.Table.from_pylist([row], schema=_RUN_SCHEMA)


def _effect_table(run: _Run) -> pa.Table:
    """Return effects on the mean over queries, then on the first queries one by one."""
    columns = {"predicted": run.predicted(), "predicted_sgd": run.predicted(-1)}
    columns |= {"truth": run.effects("fixed"), "truth_smaller": run.effects("smaller")}
    if run.proxy is not None:
        columns |= {name: np.asarray(run.proxy.array(file)) for name, file in (("proxy", "full"), ("cheap", "cheap"))}
    empty = dict.fromkeys(("proxy", "cheap"))
    rows: list[dict[str, Any]] = [{
        "query": None, "positions": run.positions, **empty,
        **{name: values.mean(axis=1) for name, values in columns.items()},
    }]  # fmt: skip
    for query in range(min(SHOWN_QUERIES, columns["truth"].shape[1])):
        rows.append({
            "query": query, "positions": run.positions, **empty,
            **{name: values[:, query] for name, values in columns.items()},
        })  # fmt: skip
    return pa.Table.from_pylist(rows, schema=_EFFECT_SCHEMA)


def _path_table(run: _Run, proxy: Artifact) -> pa.Table:
    lists = {"truth": run.truth.array("horizons_fixed"), "predicted": proxy.array("prediction_at")}
    lists |= {"proxy": proxy.array("full_at"), "cheap": proxy.array("cheap_at")}
    sound = _sound(proxy)
    rows = [
        {"position": int(position), "sound": bool(sound[number]), "seen": seen, "steps": run.horizons,
         **{name: values[:, number] for name, values in lists.items()}}
        for number, (position, seen) in enumerate(zip(run.positions, run.truth.manifest["seen"], strict=True))
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=_PATH_SCHEMA)


def _error_table(errors: Errors) -> pa.Table:
    rows = []
    for (estimator, horizon), each in errors.items():
        relative, pearson, spearman = each["relative_error"], each["pearson"], each["spearman"]
        rows.append({
            "step": horizon, "estimator": estimator, **{name: _number(each[name]) for name in _SIZES},
            "error_low": relative.low, "error_high": relative.high, "pearson": pearson.value,
            "pearson_low": pearson.low, "pearson_high": pearson.high, "spearman": spearman.value,
            "spearman_low": spearman.low, "spearman_high": spearman.high, "slope": _number(each["slope"]),
            "num_removed": each["num_removed"],
        })  # fmt: skip
    return pa.Table.from_pylist(rows, schema=_ERROR_SCHEMA)


def _doubles(*names: str) -> list[tuple[str, pa.DataType]]:
    return [(name, pa.float64()) for name in names]


def _lists(*names: str) -> list[tuple[str, pa.DataType]]:
    return [(name, pa.list_(pa.float32())) for name in names]


_AGREEMENT_SCHEMA = pa.schema([
    ("assumed", pa.string()), ("curvature", pa.string()), ("variant", pa.string()),
    *_doubles("mean", "ci_low", "ci_high"), ("num_removed", pa.int32()), ("num_queries", pa.int32()),
    ("num_undefined", pa.int32()),
])  # fmt: skip
_GAIN_SCHEMA = pa.schema([
    ("curvature", pa.string()), ("variant", pa.string()),
    *_doubles("matched", "mismatched", "difference", "difference_low", "difference_high", "ratio", "ratio_low",
              "ratio_high"),
])  # fmt: skip
_RUN_SCHEMA = pa.schema([
    ("optimizer", pa.string()), ("num_steps", pa.int32()), ("steps_per_epoch", pa.int32()),
    ("num_parameters", pa.int32()), *_lists("rates"), ("steps", pa.list_(pa.int32())), *_lists("losses"),
])  # fmt: skip
_EFFECT_SCHEMA = pa.schema([
    ("query", pa.int32()), ("positions", pa.list_(pa.int32())),
    *_lists("truth", "truth_smaller", "predicted", "predicted_sgd", "proxy", "cheap"),
])  # fmt: skip
_ERROR_SCHEMA = pa.schema([
    ("step", pa.int32()), *_doubles(*_SIZES, "error_low", "error_high"), ("estimator", pa.string()),
    *_doubles("pearson", "pearson_low", "pearson_high", "spearman", "spearman_low", "spearman_high", "slope"),
    ("num_removed", pa.int32()),
])  # fmt: skip
_PATH_SCHEMA = pa.schema([
    ("position", pa.int32()), ("sound", pa.bool_()), ("seen", pa.list_(pa.int32())), ("steps", pa.list_(pa.int32())),
    *_lists("truth", "predicted", "proxy", "cheap"),
])  # fmt: skip
