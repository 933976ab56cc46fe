"""The figures beside a paper's claim: what a study, computed here or shipped, holds about the claim's configurations.

Everything is read from small tables; nothing is computed again. A claim names configurations by selectors
(:mod:`~tda_backend.runs.selectors`); here they become configurations and values of λ, so that a page can mark them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tda_backend.errors import StudyError, UsageError
from tda_backend.evaluation.claims import Comparison
from tda_backend.runs.api import open_study
from tda_backend.runs.claim_rules import RANDOM
from tda_backend.runs.papers import COMPUTED, NOT_RUN, SHIPPED, paper_studies
from tda_backend.runs.selectors import choose, regularization_of
from tda_backend.runs.shipped import shipped_results
from tda_backend.runs.study import resolve
from tda_backend.store import repository
from tda_backend.store.workspace import Workspace

TABLES = ("configurations", "lds", "selections", "indicator", "removals")


@dataclass(frozen=True)
class ClaimEvidence:
    """What is known about one claim.

    Attributes:
        rule: The claim as the study has it: ``check`` and, by kind, ``left``, ``right``, ``methods``, ``bound``.
        alphas: Subset shares of the study; the first one is meant where a selector names none.
        tables: ``configurations`` of the claim and their rows of ``lds, selections, indicator``; ``removals`` whole.
    """

    rule: Mapping[str, Any]
    alphas: tuple[float, ...]
    tables: Mapping[str, pd.DataFrame]


def comparisons_of(claim: Mapping[str, Any]) -> list[Comparison]:
    """Return the comparisons behind a verdict (a row of :func:`~tda_backend.runs.papers.paper_claims`)."""
    text = claim.get("comparisons")
    if is_missing(text) or not text:
        return []
    found: list[Comparison] = []
    for entry in json.loads(str(text)):
        values: dict[str, Any] = {name: np.nan if value is None else value for name, value in entry.items()}
        found.append(Comparison(**values))
    return found


def study_facts(name: str, origin: str, db: str | Path | Workspace | None = None) -> dict[str, Any]:
    """Return how a study of claims was computed, or would be.

    Returns:
        ``origin, study, task, version, created, torch, device, seconds, num_train, num_queries, num_subsets, alphas,
        num_seeds``; ``None`` where unknown. Sizes are those of the results; of the study file where nothing was run.
    """
    known: dict[str, Any] = dict.fromkeys(("version", "created", "torch", "device", "seconds"))
    if origin == SHIPPED:
        facts = shipped_results(name).facts
        config = facts["config"]
        known |= {key: facts.get(key) for key in known}
    elif origin == COMPUTED:
        study = open_study(name, db)
        config = study.config
        frame = repository.studies(study.workspace)
        created = frame.loc[frame["study_id"] == study.study_id, "created"]
        known |= {
            "torch": study.info["torch"], "device": study.info["device"],
            "created": f"{created.iloc[0]:%Y-%m-%d %H:%M}" if len(created) else None,
            "seconds": float(study.timings()["seconds"].to_numpy().sum()),
        }  # fmt: skip
    else:
        config = resolve(paper_studies()[name])
    return {
        "origin": origin, "study": name, "task": config["task"], **known,
        "num_train": int(config["data"]["train"]), "num_queries": int(config["data"]["queries"]),
        "num_subsets": int(config["ground_truth"]["subsets"]), "num_seeds": int(config["training"]["seeds"]),
        "alphas": [float(alpha) for alpha in config["ground_truth"]["alphas"]],
    }  # fmt: skip


def claim_evidence(claim: Mapping[str, Any], db: str | Path | Workspace | None = None) -> ClaimEvidence:
    """Return what the figures of a claim are drawn from.

    Args:
        claim: A row of :func:`~tda_backend.runs.papers.paper_claims` whose ``origin`` is not ``not run``.
        db: Catalogue, where the claim was computed here.

    Raises:
        UsageError: The claim was not run.
    """
    if claim["origin"] == NOT_RUN:
        raise UsageError(f"Study {claim['study']} was not run.", f"tda run {claim['study']}")
    if claim["origin"] == SHIPPED:
        results = shipped_results(claim["study"])
        config, tables = results.facts["config"], dict(results.tables)
    else:
        study = open_study(claim["study"], db)
        config = study.config
        tables = {
            name: repository.query(study.workspace, f"SELECT * FROM {name} WHERE study_id = ?", [study.study_id])
            for name in TABLES
        }
    order = {identity: number for number, identity in enumerate(claim["configuration_ids"])}
    chosen: dict[str, pd.DataFrame] = {}
    for name in TABLES:
        frame = tables.get(name, pd.DataFrame())
        if name != "removals" and len(frame):
            frame = frame.loc[frame["configuration_id"].isin(order)]
            frame = frame.sort_values("configuration_id", key=lambda ids: ids.map(order), kind="stable")
        chosen[name] = frame.reset_index(drop=True)
    rules = [rule for rule in config.get("claims", []) if rule["id"] == claim["claim_id"]]
    rule = rules[0] if rules else {"check": claim["check_name"]}
    return ClaimEvidence(rule, tuple(float(alpha) for alpha in config["ground_truth"]["alphas"]), chosen)


POINT_COLUMNS = [
    "configuration_id", "label", "side", "rule", "alpha", "regularization", "mean", "ci_low", "ci_high", "seeds",
]  # fmt: skip


def claim_points(evidence: ClaimEvidence) -> pd.DataFrame:
    """Return the points of LDS that a claim compares, the left side first.

    Returns:
        configuration_id, label, side (``left`` or ``right``), rule (how λ was chosen; ``""`` without λ), alpha,
        regularization (NaN without λ), mean, ci_low, ci_high, seeds (0: all models). ``mean`` and the interval are NaN
        where a selector takes the first models of an ensemble alone, whose LDS is no row of ``lds``.
    """
    rows = _rows(evidence)
    found: list[dict[str, Any]] = []
    for side in ("left", "right"):
        for selector in evidence.rule.get(side, []):
            if isinstance(selector, Mapping) and selector != RANDOM and len(rows):
                try:
                    row = choose(rows, selector)
                except StudyError:
                    continue  # shipped by a version that resolved it otherwise: the numbers are shown, no mark
                found.append({"side": side, **_point(evidence, row, selector)})
    return pd.DataFrame(found, columns=POINT_COLUMNS)


def is_missing(value: Any) -> bool:
    """Return whether a cell of a table is empty."""
    return value is None or bool(pd.isna(value))


def _rows(evidence: ClaimEvidence) -> list[dict[str, Any]]:
    records = evidence.tables["configurations"].to_dict("records")
    for row in records:
        row["parameters"] = json.loads(row["parameters"])
        row["projection_dim"] = None if is_missing(row["projection_dim"]) else int(row["projection_dim"])
    return records


def _point(evidence: ClaimEvidence, row: Mapping[str, Any], selector: Mapping[str, Any]) -> dict[str, Any]:
    alpha = float(selector.get("alpha", evidence.alphas[0]))
    lds = evidence.tables["lds"]
    curve = lds.loc[(lds["configuration_id"] == row["configuration_id"]) & np.isclose(lds["alpha"], alpha)]
    point = {
        "configuration_id": row["configuration_id"], "label": row["label"], "alpha": alpha, "rule": "",
        "regularization": np.nan, "mean": np.nan, "ci_low": np.nan, "ci_high": np.nan,
        "seeds": int(selector.get("seeds", 0)),
    }  # fmt: skip
    at = curve.iloc[:0]
    if not row["has_regularization"]:
        at = curve.iloc[:1]
    elif len(curve):
        point["rule"] = str(selector.get("regularization", "selected"))
        selection = _selection(evidence, row["configuration_id"], alpha)
        quantiles = {name: entry["lambda"] for name, entry in json.loads(selection.get("quantiles") or "{}").items()}
        records: Any = curve.to_dict("records")
        wanted = regularization_of(selector, selection or None, records, quantiles)
        at = _nearest(curve, float(wanted or 0.0), point["rule"])
        point["regularization"] = at["regularization"].tolist()[0] if len(at) else np.nan
    if len(at) and not point["seeds"]:
        point |= {name: at[name].tolist()[0] for name in ("mean", "ci_low", "ci_high")}
    return point


def _selection(evidence: ClaimEvidence, configuration_id: str, alpha: float) -> dict[str, Any]:
    frame = evidence.tables["selections"]
    if not len(frame):
        return {}
    mine = frame.loc[(frame["configuration_id"] == configuration_id) & np.isclose(frame["alpha"], alpha)]
    return {str(name): value for name, value in mine.iloc[0].items()} if len(mine) else {}


def _nearest(curve: pd.DataFrame, wanted: float, rule: str) -> pd.DataFrame:
    """Return the row of LDS(λ) at a λ: that of λ* where it is meant, else the nearest of the grid."""
    if rule == "selected" and curve["is_selected"].to_numpy().any():
        return curve.loc[curve["is_selected"].astype(bool)].iloc[:1]
    if wanted == 0.0:
        return curve.loc[curve["regularization"] == 0.0].iloc[:1]
    positive = curve.loc[curve["regularization"] > 0]
    if not len(positive):
        return positive
    place = np.abs(np.log(positive["regularization"].to_numpy() / wanted)).argmin()
    return positive.iloc[[int(place)]]


def rule_points(evidence: ClaimEvidence) -> pd.DataFrame:
    """Return the LDS of each rule for λ in every configuration of a claim, at the first α.

    Returns:
        configuration_id, label, rule (``λ*``, ``λ = 0``, ``quantile 0.5`` …, ``best λ``), regularization, mean, regret.
    """
    found: list[dict[str, Any]] = []
    for row in _rows(evidence):
        identity, label = row["configuration_id"], row["label"]
        record = _selection(evidence, identity, evidence.alphas[0])
        if not record or is_missing(record["lds_best"]):
            continue
        entries = [("λ*", record["lambda_selected"], record["lds_selected"]), ("λ = 0", 0.0, record["lds_at_zero"])]
        for name, entry in json.loads(record["quantiles"] or "{}").items():
            entries.append((f"quantile {name}", entry["lambda"], entry["lds"]))
        entries.append(("best λ", record["lambda_best"], record["lds_best"]))
        for rule, value, mean in entries:
            if not is_missing(mean):
                regret = float(record["lds_best"]) - float(mean)
                found.append({
                    "configuration_id": identity, "label": label, "rule": rule, "regularization": float(value),
                    "mean": float(mean), "regret": regret,
                })  # fmt: skip
    return pd.DataFrame(found, columns=["configuration_id", "label", "rule", "regularization", "mean", "regret"])


def removal_shares(evidence: ClaimEvidence) -> dict[str, pd.DataFrame]:
    """Return the share of queries that have not flipped, by how many of their examples were removed.

    A query that has flipped is not retrained again; it counts as flipped at every larger size.

    Returns:
        Curve's label → size, share.
    """
    frame = evidence.tables["removals"]
    curves: dict[str, pd.DataFrame] = {}
    if not len(frame):
        return curves
    sizes = sorted(set(frame["size"]))
    for label, rows in frame.groupby("label", sort=False):
        total = rows["query"].nunique()
        first = rows.loc[rows["flipped"].astype(bool)].groupby("query")["size"].min().to_numpy()
        shares = [1 - float((first <= size).sum()) / total for size in sizes]
        curves[str(label)] = pd.DataFrame({"size": sizes, "share": shares})
    return curves
