"""What pages and scripts read of counterfactual retraining and of wrong labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from tda_backend.evaluation.brittleness import brittleness
from tda_backend.evaluation.detection import SHARES
from tda_backend.evaluation.removal import RemovalCurve, next_removals, removal_curve
from tda_backend.runs.evaluate_step import bootstrap_seed
from tda_backend.runs.study_reader import StudyReader
from tda_backend.store import repository

Results = dict[tuple[int, int], float]


def results_of(rows: pd.DataFrame) -> tuple[Results, list[int], list[int]]:
    """Return (mean correctness by (query, size), queries, available) of one curve's rows of ``removals``."""
    results: Results = {}
    available: dict[int, int] = {}
    for row in rows.to_dict("records"):
        query, size, correct = int(row["query"]), int(row["size"]), row["mean_correct"]
        if size:
            # Without classes nothing is right or wrong, and nothing flips.
            results[query, size] = 1.0 if pd.isna(correct) else float(correct)
        available[query] = int(row["available"])
    return results, list(available), list(available.values())


def curve_of(rows: pd.DataFrame, sizes: list[int], num_bootstrap: int, seed: int) -> RemovalCurve | None:
    """Return the curve of one label's rows up to the last finished size, or ``None`` while none is.

    Sizes that wait would leave only the queries that flipped early: a run in progress would look too good.
    """
    results, queries, available = results_of(rows)
    done = [
        size for number, size in enumerate(sizes)
        if not next_removals(results, queries, sizes[: number + 1], available)
    ]  # fmt: skip
    if not done or not queries:
        return None
    return removal_curve(results, queries, done, available, num_bootstrap=num_bootstrap, seed=seed)


class CounterfactualReader(StudyReader):
    """A study's removals, leave-one-out results and wrong labels; part of :class:`~tda_backend.runs.api.Study`."""

    def removals(self) -> pd.DataFrame:
        """Return every retraining without some examples, averaged over seeds.

        Columns: configuration_id (None: random examples of the same class), label, regularization, query, size (0:
        nothing removed), available, num_seeds, mean_correct, mean_goodness, flipped.
        """
        return self._read(repository.removals)

    def removal_curves(self) -> pd.DataFrame:
        """Return the fraction of flipped queries against the number removed, with 95 % intervals over queries.

        Columns: configuration_id, label, regularization, size, fraction, ci_low, ci_high, area, area_low, area_high,
        num_queries, num_unfinished. One curve per label; empty without ``[removal]``.
        """
        parts = []
        for label, rows in self.removals().groupby("label", sort=False):
            curve = curve_of(rows, self.removal_sizes, self._bootstrap, bootstrap_seed(self.config["seed"]))
            if curve is None:
                continue
            part = pd.DataFrame({
                "size": curve.sizes, "fraction": curve.fraction, "ci_low": curve.ci_low, "ci_high": curve.ci_high,
                "area": curve.area, "area_low": curve.area_low, "area_high": curve.area_high,
                "num_queries": len(curve.queries), "num_unfinished": curve.num_unfinished,
            })  # fmt: skip
            first = rows.iloc[0]
            for place, (name, value) in enumerate(
                [("configuration_id", first["configuration_id"]), ("label", label),
                 ("regularization", first["regularization"])]
            ):  # fmt: skip
                part.insert(place, name, value)
            parts.append(part)
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=CURVE_COLUMNS)

    def brittleness(self) -> pd.DataFrame:
        """Return for every query the smallest number of removed examples that flipped it, by who chose them.

        Columns: configuration_id, label, regularization, query, flips_at (Int64, NA: nothing tried flips it), holds_at
        (largest number below it known not to), available, base_goodness, done.
        """
        records: list[dict[str, Any]] = []
        for label, rows in self.removals().groupby("label", sort=False):
            results, queries, available = results_of(rows)
            whole = rows[rows["size"] == 0]
            base = dict(zip(whole["query"].tolist(), whole["mean_goodness"].tolist(), strict=True))
            for query, limit in zip(queries, available, strict=True):
                known = brittleness(results, query, self.removal_sizes, limit)
                records.append({
                    "configuration_id": rows["configuration_id"].iloc[0], "label": label,
                    "regularization": rows["regularization"].iloc[0], "query": query, "flips_at": known.flips_at,
                    "holds_at": known.holds_at, "available": limit,
                    "base_goodness": base[int(query)], "done": known.done,
                })  # fmt: skip
        frame = pd.DataFrame(records, columns=BRITTLENESS_COLUMNS)
        frame["flips_at"] = frame["flips_at"].astype("Int64")
        return frame

    def loo(self) -> pd.DataFrame:
        """Return how well each configuration foretold what leaving out single examples does, by λ.

        Columns: configuration_id, method, label, training_epoch, projection_dim, regularization, mean (Spearman, over
        queries), ci_low, ci_high, per_example, ceiling, num_undefined, num_examples, is_selected.
        """
        return self._read(repository.loo_scores)

    def loo_effects(self) -> pd.DataFrame:
        """Return position, num_seeds, effects ``[m]`` and standard_errors ``[m]`` of every example left out."""
        return self._read(repository.loo_effects)

    def noisy_labels(self) -> pd.DataFrame:
        """Return how well self-influence finds wrong labels, by configuration and λ.

        Columns: configuration_id, method, label, training_epoch, projection_dim, regularization (NaN: none),
        is_selected, auc, auc_low, auc_high, recall, recall_low, recall_high (lists over ``recall_shares``),
        num_flipped.
        """
        return self._read(repository.noisy_labels)

    def noisy_rows(self) -> pd.DataFrame:
        """Return the training positions whose label is known to be wrong, and their original label: position, label."""
        return self._read(repository.noisy_rows)

    @property
    def recall_shares(self) -> np.ndarray:
        return np.array(SHARES)

    @property
    def removal_sizes(self) -> list[int]:
        return [int(size) for size in self.config.get("removal", {}).get("sizes", [])]

    @property
    def _bootstrap(self) -> int:
        return int(self.config["evaluation"]["bootstrap"])


CURVE_COLUMNS = [
    "configuration_id", "label", "regularization", "size", "fraction", "ci_low", "ci_high", "area", "area_low",
    "area_high", "num_queries", "num_unfinished",
]  # fmt: skip
BRITTLENESS_COLUMNS = [
    "configuration_id", "label", "regularization", "query", "flips_at", "holds_at", "available", "base_goodness",
    "done",
]  # fmt: skip
