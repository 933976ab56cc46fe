"""The public interface for scripts, notebooks and pages: open a study, ask for scores, curves and selections.

::

    import tda_backend as tda

    study = tda.open_study("mnist-mlp")
    study.scores("iffim", regularization=1e-3, training_epoch=20)  # [m, n], positive helps
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tda_backend.errors import UsageError, command
from tda_backend.interfaces.reading.arguments import regularization as one_regularization
from tda_backend.interfaces.reading.arguments import regularizations, whole_number
from tda_backend.interfaces.reading.grids import grid_on
from tda_backend.interfaces.reading.influence import score_table
from tda_backend.interfaces.reading.reader import catalogue_version
from tda_backend.interfaces.reading.records.base import records
from tda_backend.interfaces.reading.records.configurations import ConfigurationRow
from tda_backend.interfaces.reading.trajectory_data import TrajectoryReader
from tda_backend.numerics.evaluation.bootstrap import bootstrap_seed
from tda_backend.numerics.evaluation.indicator import indicator_frame
from tda_backend.numerics.evaluation.lds import GroundTruth, lds_curve
from tda_backend.numerics.spectral.contraction import (
    ScoreMatrix,
    Source,
    admissible,
    block_scores,
    scores,
    self_influence,
)
from tda_backend.studies.jobs import jobs
from tda_backend.studies.jobs.progress import JobState
from tda_backend.studies.methods import METHODS
from tda_backend.studies.methods import method as method_row
from tda_backend.studies.store import repository
from tda_backend.studies.store.workspace import Workspace

__all__ = ["Study", "catalogue_version", "list_studies", "open_study"]


def open_study(name: str, db: str | Path | Workspace | None = None) -> Study:
    """Open the newest study called ``name`` (or the one with that id).

    Args:
        name: Name or id of the study.
        db: Catalogue file; default: the environment variable TDA_DB, else ``./workspace/catalogue.duckdb``.

    Raises:
        UsageError: There is no such study.
        CatalogueError: The catalogue is missing, locked or damaged.
    """
    workspace = Workspace.at(db)
    return Study(workspace, repository.find_study(workspace, name))


def list_studies(db: str | Path | Workspace | None = None) -> pd.DataFrame:
    """Return one row per study, newest first.

    Columns: study_id, name, task, status (running, complete, failed or partial), progress (0..1), steps_done,
    steps_total, message, created, num_configurations, num_train, num_queries, num_subsets, best_method, best_lds,
    best_lds_low, best_lds_high, lambda_selected, lds_selected, job_id (of the running job, else "").
    """
    workspace = Workspace.at(db)
    frame = repository.studies(workspace)
    latest: dict[str, JobState] = {}
    for job in jobs.list_jobs(workspace):
        latest.setdefault(job.study_id, job)
    states = [_state_of(row, latest.get(row.study_id)) for row in records(frame, _Steps)]
    frame = frame.drop(columns=["last_status", "last_message"])
    frame.insert(3, "status", [state.status for state in states])
    frame.insert(4, "progress", [min(1.0, state.progress) for state in states])
    frame.insert(7, "message", [state.message for state in states])
    return frame.assign(job_id=[state.job_id for state in states])


@dataclass(frozen=True)
class _Steps:
    """What the catalogue knows of how far a study is."""

    study_id: str
    name: str
    steps_done: int
    steps_total: int


@dataclass(frozen=True)
class _State:
    status: str
    progress: float
    message: str = ""
    job_id: str = ""


def _state_of(row: _Steps, last: JobState | None) -> _State:
    """Return how a study is, from its finished steps and its last job."""
    complete, share = row.steps_done >= row.steps_total, row.steps_done / max(1, row.steps_total)
    if last is not None and last.is_running:
        return _State("running", 1.0 if complete else max(share, last.fraction), last.step, last.job_id)
    if complete:
        return _State("complete", share)
    if last is not None and last.has_failed and last.status != "cancelled":
        return _State("failed", share, f"{last.message} {last.hint}".strip())
    return _State("partial", share, f"Go on with: {command('run', row.name)}")


class Study(TrajectoryReader):
    """One study: everything :class:`StudyReader` reads, and scores, LDS, ξ and λ* at values of λ never stored.

    Methods that take ``method, projection_dim, training_epoch, **parameters`` mean one configuration.
    ``projection_dim=None`` is the unprojected answer; ``training_epoch=None`` the latest epoch there is; ``seeds=None``
    all training seeds. λ is in units of the mean Gram; positive scores help.
    """

    def configuration_id(
        self, method: str, projection_dim: int | None = None, training_epoch: int | None = None, **parameters: Any
    ) -> str:
        """Return the id of one configuration.

        Raises:
            UsageError: The study does not have it; the hint lists what it has.
        """
        spec = method_row(method)
        there = [row for row in records(self.configurations(), ConfigurationRow) if row.method == method]
        if not there:
            raise UsageError(f"Study {self.name} has no results of method {method!r}.", self._known_methods())
        rows = [row for row in there if row.projection_dim == projection_dim]
        if training_epoch is not None:
            rows = [row for row in rows if row.training_epoch == training_epoch]
        for name, value in parameters.items():
            # What a configuration does not store is at its default.
            rows = [row for row in rows if json.loads(row.parameters).get(name, spec.usual(name)) == value]
        if not rows:
            given = {"projection_dim": projection_dim, "training_epoch": training_epoch, **parameters}
            wanted = ", ".join(f"{name}={value}" for name, value in given.items())
            labels = "; ".join(row.label for row in there)
            raise UsageError(f"Study {self.name} has no {method} with {wanted}.", f"It has: {labels}.")
        latest = max(row.training_epoch for row in rows)
        return self._by_defaults(method, [row for row in rows if row.training_epoch == latest]).configuration_id

    def _by_defaults(self, method: str, rows: Sequence[ConfigurationRow]) -> ConfigurationRow:
        """Return the one of several configurations whose settings are the method's defaults."""
        if len(rows) == 1:
            return rows[0]
        settings = [json.loads(row.parameters) for row in rows]
        defaults = {
            item.name: item.default[0]
            for item in method_row(method).swept
            if len({json.dumps(each.get(item.name, item.default[0])) for each in settings}) > 1
        }
        usual = [all(each.get(name, value) == value for name, value in defaults.items()) for each in settings]
        if sum(usual) != 1:
            raise UsageError(
                f"Study {self.name} has {len(rows)} configurations of {method} that fit what was asked for.",
                f"Say which by its settings ({', '.join(defaults)}): {'; '.join(row.label for row in rows)}.",
            )
        return rows[usual.index(True)]

    def scores(
        self,
        method: str,
        regularization: float | Sequence[float] | None = None,
        projection_dim: int | None = None,
        training_epoch: int | None = None,
        query: int | Sequence[int] | None = None,
        seeds: int | Sequence[int] | None = None,
        **parameters: Any,
    ) -> np.ndarray:
        """Return attribution scores: ``[m, n]``, or ``[n]`` for one query; positive helps.

        Several λ give a leading axis, ``[L, m, n]`` or ``[L, n]``, for much less than L times the work with EK-FAC.

        Args:
            method: Key of the method table.
            regularization: λ ≥ 0, any value; 0 is the pseudo-inverse. ``None`` for methods without λ.
            projection_dim: k, or ``None``: unprojected.
            training_epoch: Checkpoint of the features; ``None``: the latest there is.
            query: Position in the study's query list; ``None``: all.
            seeds: Training seed, or seeds to average over.
            **parameters: Further settings of the configuration, e.g. ``normalization=True`` of TracIn.
        """
        source = self.source(self.configuration_id(method, projection_dim, training_epoch, **parameters), seeds)
        rows: int | list[int] | None = None
        if query is not None:
            if isinstance(query, Iterable) and not isinstance(query, str) and getattr(query, "ndim", 1):
                rows = [self._query(value) for value in query]
            else:
                rows = self._query(query)
        if (
            isinstance(regularization, Iterable)
            and not isinstance(regularization, str)
            and getattr(regularization, "ndim", 1)
        ):
            self._regularization(method, source, next(iter(regularization), None))
            return score_table(source, regularizations(regularization), rows)
        return scores(source, self._regularization(method, source, regularization), rows)

    def lds(
        self,
        method: str,
        regularization: float | Sequence[float] | None = None,
        projection_dim: int | None = None,
        training_epoch: int | None = None,
        alpha: float | None = None,
        seeds: int | Sequence[int] | None = None,
        **parameters: Any,
    ) -> pd.DataFrame:
        """Return LDS at the given λ: regularization, mean, ci_low, ci_high (95 % bootstrap over subsets).

        ``regularization=None`` takes the λ of the study's grid at which the method has scores. ``num_subsets`` and
        ``num_undefined`` come along.
        """
        source = self.source(self.configuration_id(method, projection_dim, training_epoch, **parameters), seeds)
        grid = None
        if not isinstance(source, ScoreMatrix):
            grid = self._grid(regularization, source)
        elif regularization is not None:
            self._regularization(method, source, regularization)  # refuses λ with the words of scores()
        curve = lds_curve(
            source,
            GroundTruth(self.subset_masks(alpha), self.subset_outputs(alpha)),
            grid,
            num_bootstrap=self.resolved.evaluation.bootstrap,
            seed=bootstrap_seed(self.resolved.seed),
        )
        return pd.DataFrame(
            {
                "regularization": [None] if grid is None else grid,
                "mean": _values(curve.mean),
                "ci_low": _values(curve.ci_low),
                "ci_high": _values(curve.ci_high),
                "num_undefined": _values(curve.num_undefined),
                "num_subsets": curve.num_subsets,
            }
        )

    def indicator(
        self,
        method: str,
        regularization: float | Sequence[float] | None = None,
        projection_dim: int | None = None,
        training_epoch: int | None = None,
        seeds: int | Sequence[int] | None = None,
        **parameters: Any,
    ) -> pd.DataFrame:
        """Return ξ at the given λ over the validation points: regularization, mean, q05, q25, q50, q75, q95."""
        source = self.source(self.configuration_id(method, projection_dim, training_epoch, **parameters), seeds)
        if isinstance(source, ScoreMatrix):
            raise UsageError(f"Method {method!r} has no regularization, so no ξ.", self._known_methods())
        grid = grid_on(self.resolved.regularization, source)
        return indicator_frame(source, grid if regularization is None else regularizations(regularization))

    def self_influence(
        self,
        method: str,
        regularization: float | Sequence[float] | None = None,
        projection_dim: int | None = None,
        training_epoch: int | None = None,
        seeds: int | Sequence[int] | None = None,
        **parameters: Any,
    ) -> np.ndarray:
        """Return every training example's influence on its own loss, ``[L, n]``: one row per λ (one without λ).

        ``regularization=None`` takes the λ of the study's grid at which the method has scores.
        """
        spec = method_row(method)
        if not spec.has_self_influence:
            able = [row.name for row in METHODS.values() if row.has_self_influence]
            raise UsageError(f"Method {method!r} has no self-influence.", f"Methods that have one: {', '.join(able)}.")
        configuration_id = self.configuration_id(method, projection_dim, training_epoch, **parameters)
        source = self.source(configuration_id, seeds)
        if isinstance(source, ScoreMatrix):
            self._regularization(method, source, regularization)  # refuses λ with the words of scores()
            return self.stored_self_influence(configuration_id, seeds)[None]
        return self_influence(source, self._grid(regularization, source)).numpy()

    def layer_scores(
        self,
        method: str,
        regularization: float,
        query: int | Sequence[int] | None = None,
        projection_dim: int | None = None,
        training_epoch: int | None = None,
        seeds: int | Sequence[int] | None = None,
        **parameters: Any,
    ) -> dict[str, np.ndarray]:
        """Return scores by layer (they sum to :meth:`scores`), each ``[m, n]``, or ``[n]`` for one query.

        Raises:
            UsageError: The method's basis mixes the layers.
        """
        source = self.source(self.configuration_id(method, projection_dim, training_epoch, **parameters), seeds)
        value = self._regularization(method, source, regularization)
        if value is None:
            raise UsageError(f"Method {method!r} has no scores by layer.", "Choose LoGra, EK-FAC or K-FAC.")
        return block_scores(source, value, query)

    def select(
        self,
        method: str,
        projection_dim: int | None = None,
        training_epoch: int | None = None,
        alpha: float | None = None,
        **parameters: Any,
    ) -> dict[str, Any]:
        """Return λ* of Algorithm 1 with its baselines: the object of ``tda select --json`` for one configuration."""
        configuration_id = self.configuration_id(method, projection_dim, training_epoch, **parameters)
        record = self.selection(configuration_id, alpha)
        if not record:
            raise UsageError(f"Method {method!r} has no selected λ in study {self.name}.", self._known_methods())
        return record

    def top_examples(
        self,
        method: str,
        query: int,
        num: int = 10,
        regularization: float | None = None,
        projection_dim: int | None = None,
        training_epoch: int | None = None,
        seeds: int | Sequence[int] | None = None,
        **parameters: Any,
    ) -> pd.DataFrame:
        """Return the ``num`` most helpful and most harmful training examples of one query.

        ``regularization=None`` takes λ*. Columns: side (helpful or harmful), rank (from 1), position, index, label,
        prediction, score, payload.
        """
        if whole_number(num, "num", "Give at least 1.") < 1:
            raise UsageError(f"num={num} is not allowed.", "Give at least 1.")
        if regularization is None and method_row(method).has_regularization:
            selected = self.select(method, projection_dim, training_epoch, **parameters)
            regularization = selected["lambda_selected"]
        values = self.scores(
            method, regularization, projection_dim, training_epoch, self._query(query), seeds, **parameters
        )
        order = np.argsort(-values, kind="stable")
        num = min(num, len(order))
        frame = pd.DataFrame(
            {
                "side": ["helpful"] * num + ["harmful"] * num,
                "rank": [*range(1, num + 1)] * 2,
                "position": np.concatenate([order[:num], order[::-1][:num]]),
            }
        )
        frame["score"] = values[frame["position"]]
        train = self.examples("train").set_index("position")
        joined = frame.join(train[["index", "label", "prediction", "payload"]], on="position")
        return joined.loc[:, ["side", "rank", "position", "index", "label", "prediction", "score", "payload"]]

    def _grid(self, regularization: float | Sequence[float] | None, source: Any) -> list[float]:
        """Return the λ asked for, or those of the study's grid on ``source`` at which it has scores."""
        if regularization is not None:
            return regularizations(regularization)
        return admissible(source, grid_on(self.resolved.regularization, source))

    def _regularization(self, method: str, source: Source, regularization: Any) -> float | None:
        if isinstance(source, ScoreMatrix):
            if regularization is not None:
                raise UsageError(f"Method {method!r} has no regularization.", "Leave regularization out.")
            return None
        if regularization is None:
            raise UsageError(
                f"Method {method!r} needs a regularization λ.", f"`{command('select', self.name)}` suggests one."
            )
        return one_regularization(regularization)

    def _known_methods(self) -> str:
        frame = self.configurations()
        return f"It has: {', '.join(dict.fromkeys(frame['method']))}." if len(frame) else "It has no results yet."


def _values(values: Any) -> np.ndarray:
    return np.asarray(values)
