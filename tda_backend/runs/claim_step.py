"""The step that says which of a study's claims hold: from stored evaluations to verdicts."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from tda_backend.errors import StudyError
from tda_backend.evaluation.bootstrap import multinomial_weights, ranks
from tda_backend.evaluation.claims import (
    Comparison,
    Measured,
    decisive,
    difference,
    gap,
    level,
    mean_of,
    overall,
    ratio,
    spread,
)
from tda_backend.evaluation.lds import lds_curve
from tda_backend.evaluation.removal import removal_curve
from tda_backend.runs.claim_plan import removal_role, roles_of
from tda_backend.runs.claim_rules import NOT_RUN, RANDOM, rows_of
from tda_backend.runs.context import RunContext
from tda_backend.runs.counterfactual_plan import regularization_words
from tda_backend.runs.evaluate_step import bootstrap_seed
from tda_backend.runs.plan import Step
from tda_backend.runs.removal_steps import NOTHING
from tda_backend.runs.selectors import choose, regularization_of
from tda_backend.runs.sources import read_configuration, read_masks, read_outputs
from tda_backend.runs.trajectory_claim_rules import SECTIONS, TRAJECTORY_CHECKS
from tda_backend.runs.trajectory_claims import compare_trajectory
from tda_backend.store.artifacts import Artifact, ArtifactWriter

_NEAR = 1.45
"""A λ named by a claim is taken from the grid within this factor; the λ taken is named with the number."""
_FALL = 0.01


@dataclass(frozen=True)
class Curve:
    """LDS of one configuration at one α: values, means ``[L']`` and draws ``[B, L']``; ``grid`` of them a grid."""

    values: np.ndarray
    means: np.ndarray
    draws: np.ndarray
    grid: int


class Evidence:
    """What claims are compared with: the evaluated configurations of a study."""

    def __init__(self, context: RunContext, step: Step) -> None:
        self._context, self._step = context, step
        self.rows: list[Mapping[str, Any]] = list(step.context["rows"])
        self.alphas: list[float] = list(step.settings["alphas"])
        self.num_subsets: int = int(step.settings["num_subsets"])

    def artifact(self, row: Mapping[str, Any]) -> Artifact:
        """Return the evaluation of a configuration."""
        return self._context.store.open(self._step.inputs[f"evaluate {row['configuration_id']}"][0])

    def section(self, name: str) -> list[Artifact]:
        """Return what the study has of [trajectory] or [lookahead]."""
        return [self._context.store.open(key) for key in self._step.inputs[name]]

    def selection(self, row: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Return the configuration's selected λ, or ``None`` if it has no λ."""
        artifact = self.artifact(row)
        if "selections.parquet" not in artifact.manifest["files"]:
            return None
        return artifact.table("selections").to_pylist()[0]

    def curve(self, row: Mapping[str, Any], alpha: float | None = None) -> Curve:
        """Return LDS over λ of a configuration, grid first."""
        name = f"{self.alphas[0] if alpha is None else alpha:g}"
        artifact = self.artifact(row)
        if f"values_{name}.npy" not in artifact.manifest["files"]:
            raise StudyError(
                f"The study has no ground truth at α = {name} for {row['label']}.",
                f"ground_truth.alphas has {', '.join(f'{each:g}' for each in self.alphas)}.",
            )
        values, means, draws = (artifact.array(f"{part}_{name}") for part in ("values", "means", "draws"))
        return Curve(values, means, np.asarray(draws, dtype=np.float64), int(artifact.manifest["num_grid"]))

    def measured(self, selector: Mapping[str, Any]) -> Measured:
        """Return the LDS that a selector names, with its draws."""
        row = choose(self.rows, selector)
        curve = self.curve(row, selector.get("alpha"))
        index, name = self._index(row, selector, curve)
        if "alpha" in selector:
            name += f" · α={selector['alpha']:g}"
        # Subsets of another α are nested in these and share their numbers, so their draws are paired too.
        draws = curve.draws[:, index]
        if selector.get("seeds"):
            return self._of_seeds(row, selector, float(curve.values[index]), name)
        return Measured(name, float(curve.means[index]), draws)

    def _index(self, row: Mapping[str, Any], selector: Mapping[str, Any], curve: Curve) -> tuple[int, str]:
        if not row["has_regularization"]:
            return 0, str(row["label"])
        word = selector.get("regularization", "selected")
        if word == "best":
            index = int(np.nanargmax(curve.means[: curve.grid + 1]))
        elif word == "selected":
            index = curve.grid
        else:
            selection = self.selection(row) or {}
            quantiles = {name: each["lambda"] for name, each in json.loads(selection.get("quantiles") or "{}").items()}
            wanted = regularization_of(selector, selection, (), quantiles)
            index = _nearest(curve.values, float(wanted or 0.0), row)
        said = f" ({word})" if isinstance(word, str) else ""
        return index, f"{row['label']} · λ={curve.values[index]:.2g}{said}"

    def _of_seeds(self, row: Mapping[str, Any], selector: Mapping[str, Any], value: float, name: str) -> Measured:
        """Return the LDS of an ensemble's first models alone."""
        keys = self._step.inputs[f"sources {row['configuration_id']}"][: selector["seeds"]]
        source = read_configuration(self._context.store, row, keys)
        alpha = selector.get("alpha", self.alphas[0])
        retrained = self._step.inputs[f"retrain {alpha:g}"]
        queries = self._context.positions(self._step)["queries"]
        curve = lds_curve(
            source, read_masks(self._context.store, retrained), read_outputs(self._context.store, retrained, queries),
            [value] if row["has_regularization"] else None, num_bootstrap=self._step.settings["bootstrap"],
            seed=bootstrap_seed(self._step.settings["seed"]), keep_bootstrap=True,
        )  # fmt: skip
        many = "1 model" if selector["seeds"] == 1 else f"{selector['seeds']} models"
        return Measured(f"{name} · {many}", float(curve.mean[0]), np.asarray(curve.bootstrap_means)[:, 0])

    def of_methods(self, methods: Sequence[str]) -> list[Mapping[str, Any]]:
        """Return the configurations of some methods."""
        return [row for row in self.rows if row["method"] in methods]

    def spread(self, selector: Mapping[str, Any]) -> Measured:
        """Return the range of LDS over the positive λ of the grid of a configuration."""
        row = choose(self.rows, selector)
        curve = self.curve(row, selector.get("alpha"))
        kept = np.flatnonzero(curve.values[: curve.grid] > 0)
        return spread(f"range over λ of {row['label']}", curve.means[kept], curve.draws[:, kept])

    def area(self, selector: Mapping[str, Any]) -> Measured:
        """Return the area under a subset-removal curve (share of queries flipped), with draws over queries."""
        order, last = (self._context.store.open(key) for key in self._step.inputs[removal_role(selector)])
        results = {(int(query), int(size)): float(value) for query, size, value in last.array("results")}
        queries, positions = order.array("queries").tolist(), order.array("positions")
        # The study's sizes, not those found: where all queries flip early the larger ones were never tried.
        curve = removal_curve(
            results, queries, self._step.settings["sizes"], (positions != NOTHING).sum(1).tolist(), num_bootstrap=0
        )
        num = len(curve.queries)
        weights = multinomial_weights(num, self._step.settings["bootstrap"], self._step.settings["seed"]) / num
        draws = np.trapezoid(weights @ curve.flipped, curve.sizes, axis=-1) / curve.sizes[-1]
        if selector == RANDOM:
            return Measured("area of random examples of the class", curve.area, draws)
        row = choose(self.rows, selector)
        at = f", {regularization_words(selector)}" if row["has_regularization"] else ""
        return Measured(f"area of {row['label']}{at}", curve.area, draws)


def _nearest(values: np.ndarray, wanted: float, row: Mapping[str, Any]) -> int:
    if wanted == 0.0:
        found = np.flatnonzero(values == 0.0)
        if len(found):
            return int(found[0])
    else:
        distance = np.abs(np.log(np.maximum(values, 1e-300) / wanted))
        index = int(np.argmin(distance))
        if distance[index] <= math.log(_NEAR):
            return index
    raise StudyError(
        f"{row['label']} has no LDS at λ = {wanted:g}.",
        f"The grid has {values.min():.2g} to {values.max():.2g}; change [regularization] or the claim.",
    )


def compare(evidence: Evidence, claim: Mapping[str, Any]) -> list[Comparison]:
    """Return the comparisons that a claim makes."""
    check, bound = claim["check"], claim["bound"]
    if check in TRAJECTORY_CHECKS:
        return compare_trajectory(claim, evidence.section(SECTIONS[check]))
    if check == "level":
        return [level(evidence.measured(selector), bound) for selector in claim["left"]]
    if check in ("greater", "ratio", "differs"):
        left, kind = evidence.measured(claim["left"][0]), {"greater": difference, "ratio": ratio, "differs": gap}[check]
        return [kind(left, evidence.measured(selector), bound) for selector in claim["right"]]
    if check in ("wider", "flips"):
        number = evidence.spread if check == "wider" else evidence.area
        left = number(claim["left"][0])
        return [difference(left, number(selector), bound) for selector in claim["right"]]
    rows = evidence.of_methods(claim["methods"])
    if check in ("rule", "regret"):
        firsts, seconds = (["best"], claim["left"]) if check == "regret" else (claim["left"], claim["right"])
        first = _mean(evidence, rows, firsts[0])
        return [difference(first, _mean(evidence, rows, second), bound, check == "rule") for second in seconds]
    if check == "same-shape":
        return [_same_shape(evidence, row, alpha, bound) for row in rows for alpha in evidence.alphas[1:]]
    return [_rising(evidence, rows, bound)]


def _mean(evidence: Evidence, rows: Sequence[Mapping[str, Any]], rule: Any) -> Measured:
    said = rule if isinstance(rule, str) else f"λ={rule:g}"
    parts = []
    for row in rows:
        curve = evidence.curve(row)
        index, _ = evidence._index(row, {"method": row["method"], "regularization": rule}, curve)
        parts.append(Measured(row["label"], float(curve.means[index]), curve.draws[:, index]))
    return mean_of(f"{said} (mean of {len(parts)} configurations)", parts)


def _same_shape(evidence: Evidence, row: Mapping[str, Any], alpha: float, bound: float) -> Comparison:
    """Compare the correlation of two LDS curves over λ, of different α, with a bound; draws of both are resampled."""
    first, second = evidence.curve(row), evidence.curve(row, alpha)
    kept = slice(0, min(first.grid, second.grid))

    def agreement(a: np.ndarray, b: np.ndarray) -> float:
        return float((ranks(a) * ranks(b)).sum())

    value = agreement(first.means[kept], second.means[kept])
    draws = np.array([agreement(a, b) for a, b in zip(first.draws[:, kept], second.draws[:, kept], strict=True)])
    # Draws add noise to curves that hold some already and so agree less than the curves do: reflected at the value.
    reflected = np.minimum(1.0, 2 * value - draws)
    name = f"rank correlation over λ of LDS at α={evidence.alphas[0]:g} and α={alpha:g}, {row['label']}"
    return level(Measured(name, value, reflected), bound)


def _rising(evidence: Evidence, rows: Sequence[Mapping[str, Any]], bound: float) -> Comparison:
    """Compare the share of configurations whose ξ̄ rises with λ with a bound; no retraining, so no interval."""
    good = 0
    for row in rows:
        frame = evidence.artifact(row).table("indicator").to_pandas()
        frame = frame.loc[(~frame["is_selected"]) & (frame["regularization"] > 0)].sort_values("regularization")
        mean = frame["mean"].to_numpy()
        good += bool((np.maximum.accumulate(mean) - mean).max() <= _FALL and mean[-1] - mean[0] > _FALL)
    share = good / len(rows)
    name = f"share of configurations whose ξ rises with λ (never falls by more than {_FALL:g}; {good} of {len(rows)})"
    return level(Measured(name, share, np.array([share])), bound)


def run_claims(context: RunContext, step: Step, writer: ArtifactWriter) -> None:
    """Compare every claim with the study's figures and store the verdicts."""
    evidence = Evidence(context, step)
    rows = []
    missing = step.context.get("missing", {})
    for claim in step.settings["claims"]:
        reason = next((missing[role] for role in roles_of(claim, evidence.rows) if role in missing), None)
        if reason is not None:
            rows.append(_not_run(claim, evidence, reason))
            continue
        comparisons = compare(evidence, claim)
        shown = decisive(comparisons)
        rows.append({
            **_stated(claim, evidence), "verdict": overall(comparisons),
            "value": shown.value, "low": shown.low, "high": shown.high, "bound": shown.bound,
            "numbers": [each.sentence for each in comparisons],
            "comparisons": json.dumps([_finite(asdict(each)) for each in comparisons]), "note": claim.get("note", ""),
        })  # fmt: skip
    writer.table("verdicts", pa.Table.from_pylist(rows, schema=VERDICT_SCHEMA))


def _stated(claim: Mapping[str, Any], evidence: Evidence) -> dict[str, Any]:
    return {
        "claim_id": claim["id"], "paper": claim["paper"], "place": claim["place"], "statement": claim["statement"],
        "check_name": claim["check"], "num_subsets": evidence.num_subsets,
        "configuration_ids": [row["configuration_id"] for row in _unique(rows_of(claim, evidence.rows))],
    }  # fmt: skip


def _not_run(claim: Mapping[str, Any], evidence: Evidence, reason: str) -> dict[str, Any]:
    """Return the verdict on a claim that needs what could not be computed."""
    return {
        **_stated(claim, evidence), "verdict": NOT_RUN, "value": None, "low": None, "high": None,
        "bound": claim["bound"], "numbers": [], "comparisons": "[]", "note": reason,
    }  # fmt: skip


def _finite(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entry with NaN as null, as JSON has it."""
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in entry.items()}


def _unique(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return list({row["configuration_id"]: row for row in rows}.values())


VERDICT_SCHEMA = pa.schema([
    ("claim_id", pa.string()), ("paper", pa.string()), ("place", pa.string()), ("statement", pa.string()),
    ("check_name", pa.string()), ("verdict", pa.string()), ("value", pa.float64()), ("low", pa.float64()),
    ("high", pa.float64()), ("bound", pa.float64()), ("numbers", pa.list_(pa.string())),
    ("comparisons", pa.string()), ("note", pa.string()),
    ("configuration_ids", pa.list_(pa.string())), ("num_subsets", pa.int32()),
])  # fmt: skip
