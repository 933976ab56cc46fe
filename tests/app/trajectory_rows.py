"""Plausible rows of the tables about unrolled runs and look-ahead selection: pages are tested without hours of runs."""

from __future__ import annotations

import json
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa

from tda_backend.store.workspace import Workspace

RATES, NUM_SEEDS, NUM_STEPS = (1e-3, 1e-4, 1e-5), 3, 94
STRATEGIES = ("look-ahead", "look-ahead (sgd)", "alignment", "random", "full")
SECTIONS = {
    "trajectory": {"learning_rates": [*RATES], "seeds": NUM_SEEDS, "removed": 24, "curvatures": ["hessian", "gauss-newton"],
                   "horizons": 12, "proxy": True},
    "lookahead": {"learning_rates": [1e-3, 3e-3], "horizons": [1, 5, "all"], "strategies": [*STRATEGIES],
                  "fraction": 0.5, "seeds": 4},
}  # fmt: skip


def trajectory_frames(num_train: int, num_queries: int, num_removed: int = 24) -> dict[str, pd.DataFrame]:
    """Return table → rows of unrolled runs at three learning rates and three seeds."""
    rng = np.random.default_rng(0)
    removed = np.sort(rng.choice(num_train, min(num_removed, num_train // 2), replace=False))
    horizons = np.unique(np.linspace(0, NUM_STEPS, 13).round().astype(int))[1:]
    rows: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("runs", "agreement", "gains", "effects", "errors", "paths")
    }
    for rate in RATES:
        strength = np.log10(rate) + 5  # 0 at 1e-5, 2 at 1e-3
        values = {("as trained", "hessian"): 0.97 - 0.02 * strength, ("as trained", "gauss-newton"): 0.95 - 0.05 * strength,
                  ("sgd", "hessian"): 0.75 - 0.1 * strength, ("sgd", "gauss-newton"): 0.74 - 0.1 * strength}  # fmt: skip
        for seed in range(NUM_SEEDS):
            run = {"learning_rate": rate, "seed_index": seed}
            rates = np.full(NUM_STEPS, rate) * np.minimum(1, np.arange(1, NUM_STEPS + 1) / 9)
            rows["runs"].append({
                **run, "optimizer": "AdamW (betas 0.9, 0.95)", "num_steps": NUM_STEPS, "steps_per_epoch": NUM_STEPS,
                "num_parameters": 13002, "rates": rates, "steps": np.r_[0, horizons],
                "losses": 2.3 - 0.6 * strength * (1 - np.exp(-np.r_[0, horizons] / 30)) + 0.02 * rng.standard_normal(13),
            })  # fmt: skip
            seen = [np.sort(rng.choice(NUM_STEPS, 1 + (number % 4 == 0), replace=False)) + 1 for number in range(len(removed))]
            final = rate * rng.standard_t(3, len(removed)) * 0.3
            grown = np.array([[np.clip((step - first[0] + 1) / 40, 0, 1) ** 0.5 for step in horizons] for first in seen])
            truth = final[:, None] * grown * np.exp(0.03 * rng.standard_normal(grown.shape))
            error = 0.03 * (1 + strength) * truth * rng.uniform(0.2, 2, (len(removed), 1)) * grown
            predicted = truth - error
            proxy = 0.6 * error + 0.2 * np.abs(error).mean() * rng.standard_normal(grown.shape) * (grown > 0)
            cheap = 0.5 * proxy
            for place, position in enumerate(removed):
                rows["paths"].append({
                    **run, "position": position, "seen": seen[place], "steps": horizons, "truth": truth[place],
                    "predicted": predicted[place], "proxy": proxy[place], "cheap": cheap[place],
                })  # fmt: skip
            for query in [None, *range(min(5, num_queries))]:
                scale = np.ones(len(removed)) if query is None else rng.normal(1, 1.2, len(removed))
                end = truth[:, -1] * scale
                rows["effects"].append({
                    **run, "query": query, "positions": removed, "truth": end,
                    "truth_smaller": end * 1.01 + 0.02 * np.abs(end).mean() * rng.standard_normal(len(removed)),
                    "predicted": predicted[:, -1] * scale,
                    "predicted_sgd": end * 40 + 30 * np.abs(end).mean() * rng.standard_normal(len(removed)),
                    "proxy": proxy[:, -1] * scale, "cheap": cheap[:, -1] * scale,
                })  # fmt: skip
            rows["errors"] += _errors(run, horizons, truth, predicted, {"proxy": proxy, "cheap": cheap})
            rows["agreement"] += _agreement(run, values, rng, len(removed), num_queries)
            rows["gains"] += _gains(run, values)
        everyone = {"learning_rate": rate, "seed_index": None}
        rows["agreement"] += _agreement(everyone, values, rng, len(removed), num_queries)
        rows["gains"] += _gains(everyone, values)
        of_seed = pd.DataFrame([row for row in rows["errors"] if row["learning_rate"] == rate])
        mean = of_seed.drop(columns=["seed_index"]).groupby(["learning_rate", "step", "estimator"], as_index=False).mean()
        rows["errors"] += [{**row, "seed_index": None} for row in mean.to_dict("records")]
    return {f"trajectory_{name}": pd.DataFrame(entries) for name, entries in rows.items()}


def _agreement(run: dict, values: dict, rng: np.random.Generator, num_removed: int, num_queries: int) -> list[dict]:
    rows = []
    for (assumed, curvature), value in values.items():
        for variant in ("fixed", "smaller"):
            mean = value + (0.0 if run["seed_index"] is None else 0.02 * rng.standard_normal())
            rows.append({
                **run, "assumed": assumed, "curvature": curvature, "variant": variant, "mean": mean, "ci_low": mean - 0.06,
                "ci_high": min(1.0, mean + 0.04), "num_removed": num_removed, "num_queries": num_queries, "num_undefined": 0,
            })  # fmt: skip
    return rows


def _gains(run: dict, values: dict) -> list[dict]:
    rows = []
    for curvature in ("hessian", "gauss-newton"):
        for variant in ("fixed", "smaller"):
            right, wrong = values["as trained", curvature], values["sgd", curvature]
            rows.append({
                **run, "curvature": curvature, "variant": variant, "matched": right, "mismatched": wrong,
                "difference": right - wrong, "difference_low": right - wrong - 0.07, "difference_high": right - wrong + 0.08,
                "ratio": right / wrong, "ratio_low": right / wrong - 0.1, "ratio_high": right / wrong + 0.12,
            })  # fmt: skip
    return rows


def _errors(run: dict, horizons: np.ndarray, truth: np.ndarray, predicted: np.ndarray, estimates: dict) -> list[dict]:
    rows = []
    for place, step in enumerate(horizons):
        error = (truth - predicted)[:, place]
        effect, size = np.abs(truth[:, place]).mean(), np.abs(error).mean()
        relative = float(size / effect) if effect > 0 else float("nan")
        for name, values in estimates.items():
            estimate = values[:, place]
            known = np.ptp(estimate) > 0 and np.ptp(error) > 0
            pearson = float(np.corrcoef(error, estimate)[0, 1]) if known else float("nan")
            rows.append({
                **run, "step": step, "mean_effect": effect, "mean_error": size, "relative_error": relative,
                "error_low": 0.8 * relative, "error_high": 1.25 * relative, "estimator": name, "pearson": pearson,
                "pearson_low": pearson - 0.2, "pearson_high": min(1.0, pearson + 0.1), "spearman": pearson - 0.05,
                "slope": float(error @ estimate / (error @ error)) if error.any() else float("nan"),
            })  # fmt: skip
    return rows


def lookahead_frames(num_train: int, has_accuracy: bool = True) -> dict[str, pd.DataFrame]:
    """Return table → rows of training with selection: two learning rates, four seeds."""
    rng = np.random.default_rng(1)
    runs, curves = [], []
    quality = {"look-ahead": 0.30, "look-ahead (sgd)": 0.33, "alignment": 0.34, "random": 0.38, "full": 0.35}
    cost = {"look-ahead": 3.0, "look-ahead (sgd)": 3.0, "alignment": 1.5, "random": 0.5, "full": 1.0}
    steps = np.unique(np.linspace(0, NUM_STEPS, 13).round().astype(int))
    for strategy in STRATEGIES:
        for horizon in (1, 5, NUM_STEPS) if strategy.startswith("look-ahead") else (None,):
            for rate in (1e-3, 3e-3):
                for seed in range(4):
                    run = {"strategy": strategy, "horizon": horizon, "learning_rate": rate, "seed_index": seed}
                    base = quality[strategy] + (0.05 if rate < 2e-3 else 0.0) + (0.02 if horizon == NUM_STEPS else 0.0)
                    base += 0.01 * rng.standard_normal() + (0.01 if horizon == 1 else 0.0)
                    for split, more in (("selection", -0.01), ("tuning", 0.0), ("test", 0.01)):
                        runs.append({
                            **run, "fraction": 1.0 if strategy == "full" else 0.5, "num_steps": NUM_STEPS, "split": split,
                            "loss": base + more, "accuracy": 1 - base / 3 if has_accuracy else None, "seconds": 1.5,
                            "gradient_evaluations": int(6000 * (cost[strategy] + (horizon or 0) / 50)),
                            "hessian_products": 0 if horizon is None else NUM_STEPS,
                        })  # fmt: skip
                    losses = 2.3 - (2.3 - base) * (1 - np.exp(-steps / 20))
                    curves.append({**run, "steps": steps, "tuning_losses": losses, "test_losses": losses + 0.01})
    frame = pd.DataFrame(runs)
    tuned, gains, examples = [], [], []
    keys = ["strategy", "horizon", "learning_rate"]
    means = frame.groupby([*keys, "split"], dropna=False)["loss"].mean().unstack("split").reset_index()
    for strategy in STRATEGIES:
        mine = means[means["strategy"] == strategy]
        best = mine.loc[mine["tuning"].idxmin()]
        accuracy = 1 - best["test"] / 3
        tuned.append({
            "strategy": strategy, "horizon": best["horizon"], "learning_rate": best["learning_rate"],
            "tuning_loss": best["tuning"], "test_loss": best["test"], "loss_low": best["test"] - 0.01,
            "loss_high": best["test"] + 0.01, "test_accuracy": accuracy if has_accuracy else None,
            "accuracy_low": accuracy - 0.01 if has_accuracy else None,
            "accuracy_high": accuracy + 0.01 if has_accuracy else None, "num_seeds": 4,
        })  # fmt: skip
        if strategy != "full":
            share = np.clip(0.5 + 0.3 * rng.standard_normal(num_train), 0, 1)
            examples.append(pd.DataFrame({
                "strategy": strategy, "horizon": best["horizon"], "learning_rate": best["learning_rate"],
                "position": np.arange(num_train), "times_seen": 4, "times_kept": (4 * share).round().astype(int),
                "mean_score": 1e-3 * (share - 0.5) if strategy != "random" else np.nan,
            }))  # fmt: skip
    for strategy in ("look-ahead", "look-ahead (sgd)", "alignment"):
        for against in ("look-ahead (sgd)", "alignment", "random", "full"):
            if STRATEGIES.index(against) > STRATEGIES.index(strategy):
                gain = quality[against] - quality[strategy]
                gains.append({
                    "strategy": strategy, "against": against, "loss_gain": gain, "loss_low": gain - 0.012,
                    "loss_high": gain + 0.012, "accuracy_gain": gain / 3 if has_accuracy else None,
                    "accuracy_low": gain / 3 - 0.006 if has_accuracy else None,
                    "accuracy_high": gain / 3 + 0.006 if has_accuracy else None,
                })  # fmt: skip
    return {
        "lookahead_runs": frame, "lookahead_curves": pd.DataFrame(curves), "lookahead_tuned": pd.DataFrame(tuned),
        "lookahead_gains": pd.DataFrame(gains), "lookahead_examples": pd.concat(examples),
    }  # fmt: skip


def insert(workspace: Workspace, study: str, frames: dict[str, pd.DataFrame], sections: dict[str, Any]) -> None:
    """Write rows and study sections into a catalogue that a test owns."""
    connection = duckdb.connect(str(workspace.catalogue))
    try:
        row = connection.execute("SELECT study_id, config FROM studies WHERE name = ?", [study]).fetchall()[0]
        config = json.dumps({**json.loads(row[1]), **sections})
        connection.execute("UPDATE studies SET config = ? WHERE study_id = ?", [config, row[0]])
        for table, frame in frames.items():
            known = frame.assign(study_id=row[0])
            connection.register("new_rows", pa.Table.from_pandas(known, preserve_index=False))
            connection.execute(f"INSERT INTO {table} BY NAME SELECT * FROM new_rows")
            connection.unregister("new_rows")
    finally:
        connection.close()
    workspace.snapshot.unlink(missing_ok=True)
