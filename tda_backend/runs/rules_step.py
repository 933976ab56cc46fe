"""The step that judges the rules for λ, epoch and dimension, and races all configurations over the retrainings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from tda_backend.evaluation.racing import run_race
from tda_backend.evaluation.rules import rule_outcomes
from tda_backend.runs.context import RunContext
from tda_backend.runs.plan import Step
from tda_backend.runs.sources import read_outputs
from tda_backend.runs.tuning import COLUMNS as TUNING_COLUMNS
from tda_backend.runs.tuning import tuning_rows, validation_losses
from tda_backend.store.artifacts import Artifact, ArtifactWriter

TOLERANCE, CONFIDENCE = 0.01, 0.95


def run_rules(context: RunContext, step: Step, writer: ArtifactWriter) -> None:
    """Store what every rule chose in every configuration, and how the race of all of them ended.

    The race is over the grids of all configurations and every method without λ, in the order of the retrained subsets.
    Configurations that could not be evaluated take no part.
    """
    alpha, queries = step.settings["alpha"], context.positions(step)["queries"]
    target = read_outputs(context.store, step.inputs["retrain"], queries)
    outcomes: list[dict[str, Any]] = []
    candidates: list[np.ndarray] = []
    names: list[tuple[str, float | None, float]] = []
    at_selected: dict[str, float] = {}
    for role, keys in step.inputs.items():
        if not role.startswith("evaluate "):
            continue
        identity, artifact = role.removeprefix("evaluate "), context.store.open(keys[0])
        values, means, predicted = (artifact.array(f"{part}_{alpha:g}") for part in ("values", "means", "ranks"))
        kept = int(artifact.manifest["num_grid"]) + int(_has_rules(artifact))
        candidates.append(predicted[:kept])
        names += [(identity, None if np.isnan(v) else float(v), float(m)) for v, m in zip(values, means, strict=True)][
            :kept
        ]
        if _has_rules(artifact):
            at_selected[identity] = float(means[kept - 1])
            chosen = artifact.table("rules").to_pandas()
            rules = {str(r): float(v) for r, v in zip(chosen["rule"], chosen["regularization"], strict=True)}
            rows = rule_outcomes(
                identity, values, means, rules, len(target), predicted=predicted, target=target, tolerance=TOLERANCE,
                confidence=CONFIDENCE,
            )  # fmt: skip
            outcomes += [
                {"configuration_id": identity, "alpha": alpha, "rule": row.rule, "regularization": row.regularization,
                 "lds": row.lds, "regret": row.regret, "num_retrainings": row.num_retrainings}
                for row in rows
            ]  # fmt: skip
            if f"layers_{alpha:g}.npy" in artifact.manifest["files"]:
                lds = float(artifact.array(f"layers_{alpha:g}").item())
                best = max(row.lds for row in rows)  # of single λ, so that one λ per layer may have negative regret
                outcomes.append({
                    "configuration_id": identity, "alpha": alpha, "rule": f"xi{step.settings['threshold']:g} per layer",
                    "regularization": None, "lds": lds, "regret": best - lds, "num_retrainings": 0,
                })  # fmt: skip
    writer.table("rules", pd.DataFrame(outcomes, columns=_COLUMNS))
    losses = validation_losses(
        context, step.inputs["train"][0], context.positions(step)["validation"], step.settings["training_seed"]
    )
    there = [row for row in step.context["rows"] if f"evaluate {row['configuration_id']}" in step.inputs]
    tuned = tuning_rows(there, at_selected, losses, alpha)
    writer.table("tuning", pd.DataFrame(tuned, columns=list(TUNING_COLUMNS)))
    race = run_race(np.concatenate(candidates), iter(target), tolerance=TOLERANCE, confidence=CONFIDENCE)
    identity, value, lds = names[race.winner]
    best = max(mean for _, _, mean in names if np.isfinite(mean))
    record: Mapping[str, Any] = {
        "alpha": alpha, "configuration_id": identity, "regularization": value, "lds": lds, "regret": best - lds,
        "num_candidates": len(names), "num_retrainings": race.num_retrainings, "num_subsets": len(target),
        "decided": race.decided, "sentence": race.sentence,
    }  # fmt: skip
    writer.table("races", pa.Table.from_pylist([record], schema=RACE_SCHEMA))


def _has_rules(artifact: Artifact) -> bool:
    return "rules.parquet" in artifact.manifest["files"]


_COLUMNS = ["configuration_id", "alpha", "rule", "regularization", "lds", "regret", "num_retrainings"]
RACE_SCHEMA = pa.schema([
    ("alpha", pa.float64()), ("configuration_id", pa.string()), ("regularization", pa.float64()), ("lds", pa.float64()),
    ("regret", pa.float64()), ("num_candidates", pa.int32()), ("num_retrainings", pa.int32()),
    ("num_subsets", pa.int32()), ("decided", pa.bool_()), ("sentence", pa.string()),
])  # fmt: skip
