"""What pages and scripts read of counterfactual retraining and of wrong labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from tda_backend.interfaces.reading.reader import StudyReader
from tda_backend.interfaces.reading.records.base import records
from tda_backend.interfaces.reading.records.frames import frame_of
from tda_backend.interfaces.reading.records.grouping import grouped
from tda_backend.interfaces.reading.records.removals import QueryBrittleness, Removal, RemovalPoint
from tda_backend.numerics.evaluation.bootstrap import bootstrap_seed
from tda_backend.numerics.evaluation.brittleness import brittleness
from tda_backend.numerics.evaluation.detection import SHARES
from tda_backend.numerics.evaluation.removal import RemovalCurve, next_removals, removal_curve
from tda_backend.studies.store import repository

Results = dict[tuple[int, int], float]


def results_of(rows: Sequence[Removal]) -> tuple[Results, list[int], list[int]]:
    """Return (mean correctness by (query, size), queries, available) of one curve."""
    # Without classes nothing is right or wrong, and nothing flips.
    results = {(row.query, row.size): 1.0 if row.mean_correct is None else row.mean_correct for row in rows if row.size}
    available = {row.query: row.available for row in rows}
    return results, list(available), list(available.values())


def curve_of(rows: Sequence[Removal], sizes: list[int], num_bootstrap: int, seed: int) -> RemovalCurve | None:
    """Return the curve of one label's rows up to the last finished size, or ``None`` while none is.

    Sizes that wait would leave only the queries that flipped early: a run in progress would look too good.
    """
    results, queries, available = results_of(rows)
    done = [
        size for number, size in enumerate(sizes) if not next_removals(results, queries, sizes[: number + 1], available)
    ]
    if not done or not queries:
        return None
    return removal_curve(results, queries, done, available, num_bootstrap=num_bootstrap, seed=seed)


class CounterfactualReader(StudyReader):
    """A study's removals, leave-one-out results and wrong labels; part of ``Study``."""

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
        return frame_of(self.removal_points(), RemovalPoint).astype({"configuration_id": object})

    def removal_points(self) -> list[RemovalPoint]:
        """Return the rows of :meth:`removal_curves` as records."""
        points = []
        for label, rows in grouped(records(self.removals(), Removal), lambda row: row.label).items():
            curve = curve_of(rows, self.removal_sizes, self.num_bootstrap, self.bootstrap_seed)
            if curve is not None:
                points += [
                    RemovalPoint(
                        configuration_id=rows[0].configuration_id,
                        label=label,
                        regularization=rows[0].regularization,
                        size=int(curve.sizes[place]),
                        fraction=float(curve.fraction[place]),
                        ci_low=float(curve.ci_low[place]),
                        ci_high=float(curve.ci_high[place]),
                        area=curve.area,
                        area_low=curve.area_low,
                        area_high=curve.area_high,
                        num_queries=len(curve.queries),
                        num_unfinished=curve.num_unfinished,
                    )
                    for place in range(len(curve.sizes))
                ]
        return points

    def brittleness(self) -> pd.DataFrame:
        """Return for every query the smallest number of removed examples that flipped it, by who chose them.

        Columns: configuration_id, label, regularization, query, flips_at (Int64, NA: nothing tried flips it), holds_at
        (largest number below it known not to), available, base_goodness, done.
        """
        return frame_of(self.brittle_queries(), QueryBrittleness)

    def brittle_queries(self) -> list[QueryBrittleness]:
        """Return the rows of :meth:`brittleness` as records."""
        found = []
        for label, rows in grouped(records(self.removals(), Removal), lambda row: row.label).items():
            results, queries, available = results_of(rows)
            base = {row.query: row.mean_goodness for row in rows if not row.size}
            for query, limit in zip(queries, available, strict=True):
                known = brittleness(results, query, self.removal_sizes, limit)
                found.append(
                    QueryBrittleness(
                        configuration_id=rows[0].configuration_id,
                        label=label,
                        regularization=rows[0].regularization,
                        query=query,
                        flips_at=known.flips_at,
                        holds_at=known.holds_at,
                        available=limit,
                        base_goodness=base[query],
                        done=known.done,
                    )
                )
        return found

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

    def has_retrained(self, alpha: float | None = None) -> bool:
        """Return whether models were retrained on subsets with this share by now."""
        return bool(len(self._read(repository.retrainings, self.known_alpha(alpha))))

    @property
    def recall_shares(self) -> np.ndarray:
        """Shares of the training examples at which recall is measured."""
        return np.array(SHARES)

    @property
    def removal_sizes(self) -> list[int]:
        """How many examples are removed for each query, ascending; empty without ``[removal]``."""
        return [int(size) for size in self.config.get("removal", {}).get("sizes", [])]

    @property
    def num_bootstrap(self) -> int:
        """Draws behind each 95 % interval."""
        return self.resolved.evaluation.bootstrap

    @property
    def bootstrap_seed(self) -> int:
        """Seed of these draws; the same for every method, so that differences are paired."""
        return bootstrap_seed(self.resolved.seed)
