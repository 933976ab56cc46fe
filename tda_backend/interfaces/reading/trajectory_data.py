"""What pages and scripts read of unrolled training runs and of look-ahead selection."""

from __future__ import annotations

import pandas as pd

from tda_backend.interfaces.reading.counterfactuals import CounterfactualReader
from tda_backend.studies.store.repository import trajectory_rows


class TrajectoryReader(CounterfactualReader):
    """A study's recorded runs and selections; part of :class:`~tda_backend.interfaces.reading.study.Study`.

    Every frame has the columns of the catalogue's table of the same name (``tda query`` and the Query page describe
    them); frames are empty where a study has no such section or nothing is computed yet.
    """

    def trajectory_runs(self) -> pd.DataFrame:
        """Return the recorded runs: optimizer, steps, learning rates, losses over the steps."""
        return self.trajectory_table("trajectory_runs")

    def trajectory_agreement(self) -> pd.DataFrame:
        """Return Spearman correlations of predicted and true effects, by run, assumed optimizer and curvature."""
        return self.trajectory_table("trajectory_agreement")

    def trajectory_gains(self) -> pd.DataFrame:
        """Return what matching the optimizer brings over the SGD assumption, in pairs."""
        return self.trajectory_table("trajectory_gains")

    def trajectory_errors(self) -> pd.DataFrame:
        """Return how errors grow over the steps, and how well the proxies follow them."""
        return self.trajectory_table("trajectory_errors")

    def trajectory_effects(self, learning_rate: float, seed_index: int) -> pd.DataFrame:
        """Return predicted and true effects and proxies of one run: the mean over queries, and single queries."""
        return self.trajectory_table("trajectory_effects", learning_rate, seed_index)

    def trajectory_paths(self, learning_rate: float, seed_index: int) -> pd.DataFrame:
        """Return the effect of each removed example over the steps of one run."""
        return self.trajectory_table("trajectory_paths", learning_rate, seed_index)

    def lookahead_runs(self) -> pd.DataFrame:
        """Return losses and accuracies of all runs with selection, by split."""
        return self.trajectory_table("lookahead_runs")

    def lookahead_curves(self) -> pd.DataFrame:
        """Return losses of these runs while they train."""
        return self.trajectory_table("lookahead_curves")

    def lookahead_tuned(self) -> pd.DataFrame:
        """Return each strategy at the K and learning rate chosen on the tuning set."""
        return self.trajectory_table("lookahead_tuned")

    def lookahead_gains(self) -> pd.DataFrame:
        """Return tuned strategies compared in pairs on the test set."""
        return self.trajectory_table("lookahead_gains")

    def lookahead_examples(self) -> pd.DataFrame:
        """Return which examples the tuned strategies kept and dropped."""
        return self.trajectory_table("lookahead_examples")

    def trajectory_table(
        self, table: str, learning_rate: float | None = None, seed_index: int | None = None
    ) -> pd.DataFrame:
        """Return the rows of one of these tables, of one run if its learning rate and seed are given."""
        return self._read(trajectory_rows, table, learning_rate, seed_index)
