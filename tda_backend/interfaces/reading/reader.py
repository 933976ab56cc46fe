"""What pages and scripts read of a study: stored rows, examples, sources of scores, and the explorer's payload."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tda_backend.errors import UsageError, command
from tda_backend.interfaces.reading.arguments import regularizations as checked_regularizations
from tda_backend.interfaces.reading.arguments import whole_number, whole_numbers
from tda_backend.interfaces.reading.grids import Edges, grid_on, whole_grid, with_edge_notes
from tda_backend.interfaces.reading.payload import Payload, payload_of
from tda_backend.interfaces.reading.records.base import records
from tda_backend.interfaces.reading.records.configurations import ConfigurationRow, SourceRow
from tda_backend.interfaces.reading.records.selections import SelectionRow
from tda_backend.interfaces.reading.withdrawn import withdrawn
from tda_backend.numerics.evaluation.ranks import rank_intervals
from tda_backend.numerics.spectral.contraction import ScoreMatrix, Source, admissible
from tda_backend.numerics.spectral.one_query import candidates
from tda_backend.studies.config.study import Study as ResolvedStudy
from tda_backend.studies.methods import method as method_row
from tda_backend.studies.steps.scores import score_matrices
from tda_backend.studies.steps.source import cached_source
from tda_backend.studies.steps.train import read_masks, read_outputs
from tda_backend.studies.store import repository
from tda_backend.studies.store.artifact import Artifact
from tda_backend.studies.store.artifacts import ArtifactStore
from tda_backend.studies.store.catalogue import owned_here
from tda_backend.studies.store.verification import generation
from tda_backend.studies.store.workspace import Workspace

SPLITS = ("train", "validation", "queries", "test")
EXPLORER_GRID_PER_DECADE = 6
MAX_REMEMBERED = 512


def catalogue_version(db: str | Path | Workspace | None = None) -> str:
    """Return a token that changes when the catalogue does, or a stored file that was read: a key for caches."""
    workspace = Workspace.at(db)
    read = generation()
    if owned_here(workspace):
        rows = repository.query(workspace, "SELECT count(*) AS num, max(ingested)::VARCHAR AS last FROM ingested")
        return f"{rows.num.iloc[0]}-{rows['last'].iloc[0]}-{read}"
    files = (workspace.catalogue, workspace.log, workspace.snapshot)
    return "-".join(str(path.stat().st_mtime_ns) for path in files if path.exists()) + f"-{read}"


class StudyReader:
    """Read access to one study of a catalogue; opened by :func:`tda_backend.open_study`.

    Attributes:
        workspace: Catalogue and artifacts.
        study_id: Which study.
        name: Its name.
        config: The resolved study file.
    """

    def __init__(self, workspace: Workspace, known: repository.KnownStudy) -> None:
        self.workspace = workspace
        self.study_id = known.study_id
        self.name = known.name
        self.config = known.config
        self._info = known.info
        self._store = ArtifactStore(workspace.artifacts, workspace.read_only)
        self._examples: dict[str, pd.DataFrame] = {}
        self._rows: dict[tuple, tuple[str, pd.DataFrame]] = {}

    def __repr__(self) -> str:
        return f"<Study {self.name} ({self.study_id}) in {self.workspace.catalogue}>"

    @cached_property
    def resolved(self) -> ResolvedStudy:
        """The resolved study file, typed."""
        return ResolvedStudy.from_json(self.config)

    @property
    def info(self) -> dict[str, Any]:
        """Facts about the study.

        Keys: ``study_id, name, task, task_spec, seed, num_rows (of the task), num_train, num_validation, num_queries,
        num_test, num_parameters, untracked, num_subsets, repeats, alphas, num_seeds, epochs, regularizations (the λ
        grid; of a relative one all configurations' together), threshold, quantiles, class_names, until and
        most_subsets (of a study whose retraining may stop early),
        num_classes, measurement, measurement_sign, margin_identity, training, device, torch, machine,
        code (version and hash of the program that planned it)``.
        """
        grid = self.resolved.regularization
        about = {"study_id": self.study_id, "name": self.name, **self._info}
        return {**about, "regularizations": whole_grid(grid, self._edges())} if grid.relative else about

    def _edges(self) -> list[Edges]:
        return records(self._read(repository.grid_edges), Edges)

    @property
    def num_queries(self) -> int:
        return self.resolved.data.queries

    @property
    def num_train(self) -> int:
        return self.resolved.data.train

    @property
    def alphas(self) -> list[float]:
        return [float(alpha) for alpha in self.resolved.ground_truth.alphas]

    def configurations(self) -> pd.DataFrame:
        """Return the configurations that can be asked for by now.

        Columns: configuration_id, method, title, training_epoch, projection_dim (Int64, NA: unprojected), parameters
        (JSON), label, has_regularization, has_lds, num_seeds.
        """
        return self._read(repository.configurations)

    def curve(self, configuration_id: str, alpha: float | None = None) -> pd.DataFrame:
        """Return LDS(λ): regularization, mean, ci_low, ci_high, num_subsets, num_undefined, is_selected."""
        return self._read(repository.curve, configuration_id, self.known_alpha(alpha))

    def query_curve(self, configuration_id: str, query: int, alpha: float | None = None) -> pd.DataFrame:
        """Return one query's LDS(λ): regularization, lds."""
        position = self._query(query)
        return self._read(repository.query_curve, configuration_id, position, self.known_alpha(alpha))

    def indicator_curve(self, configuration_id: str) -> pd.DataFrame:
        """Return ξ(λ): regularization, mean, q05, q25, q50, q75, q95, num_dropped, is_selected."""
        return self._read(repository.indicator, configuration_id)

    def selections(self, alpha: float | None = None) -> pd.DataFrame:
        """Return λ* and its baselines of every configuration with λ; ``quantiles`` are dicts, ``warnings`` lists."""
        frame = self._read(repository.selections, alpha)
        frame["quantiles"] = [json.loads(text) for text in frame["quantiles"]]
        frame["warnings"] = [list(values) for values in frame["warnings"]]
        frame["warnings"] = with_edge_notes(frame.to_dict("records"), self._edges(), self.resolved.regularization)
        frame["projection_dim"] = frame["projection_dim"].astype("Int64")
        return frame

    def rules(self, alpha: float | None = None) -> pd.DataFrame:
        """Return what each rule for λ chose in each configuration and what it lost.

        Columns: label, method, training_epoch, projection_dim, configuration_id, alpha, rule (zero, default, q0.5 …,
        xi0.5 …, racing, oracle), regularization, lds, regret, num_retrainings.
        """
        return self._read(repository.rules, self.known_alpha(alpha))

    def tuning(self, alpha: float | None = None) -> pd.DataFrame:
        """Return what rules without retraining chose among epochs and projection dimensions, λ being chosen by ξ.

        Columns: alpha, what (training_epoch or projection_dim), method, among, rule (last, lowest-loss, progress;
        default, widest), chosen, configuration_id, lds, regret (against the best of them at its own λ*).
        """
        return self._read(repository.tuning, self.known_alpha(alpha))

    def race(self, alpha: float | None = None) -> dict[str, Any]:
        """Return how racing all configurations and λ over the study's retrainings ended; empty while there is none.

        Keys: label, method, configuration_id, regularization, lds, regret, num_candidates, num_retrainings,
        num_subsets, decided, sentence.
        """
        frame = self._read(repository.races, self.known_alpha(alpha))
        return {str(name): value for name, value in frame.iloc[0].items()} if len(frame) else {}

    def verdicts(self) -> pd.DataFrame:
        """Return what papers state and whether this study shows it.

        Columns: claim_id, paper, place, statement, check_name, verdict (reproduced, not reproduced, inconclusive, not
        tested as stated), value, low, high, bound, numbers (list of sentences), note, configuration_ids, num_subsets.
        """
        frame = self._read(repository.verdicts)
        frame["configuration_ids"] = [list(values) for values in frame["configuration_ids"]]
        return withdrawn().applied(self.name, frame)

    def selection(self, configuration_id: str, alpha: float | None = None) -> dict[str, Any]:
        """Return one object of ``tda select --json``; empty if nothing was selected yet."""
        rows = records(self.selections(self.known_alpha(alpha)), SelectionRow)
        return next((row.to_json() for row in rows if row.configuration_id == configuration_id), {})

    def eigenvalues(self, configuration_id: str) -> np.ndarray:
        """Return the eigenvalues of the mean Gram, all training seeds together, descending."""
        rows = self._read(repository.eigenvalues, configuration_id)
        values = [np.asarray(row, dtype=np.float64) for row in rows["eigenvalues"]]
        return np.sort(np.concatenate(values))[::-1].copy() if values else np.empty(0)

    def lds_table(self, alpha: float | None = None) -> pd.DataFrame:
        """Return every grid value of LDS in long form, for heatmaps.

        Columns: configuration_id, method, title, training_epoch, projection_dim, label, has_regularization,
        regularization, mean, ci_low, ci_high, num_subsets.
        """
        return self._read(repository.lds_table, self.known_alpha(alpha))

    def examples(self, split: str = "train") -> pd.DataFrame:
        """Return the examples of a split: train, validation, queries or test (the whole test set).

        Columns: position, index, label, prediction, goodness, loss, payload (PNG bytes, or text), kind, caption,
        has_classes (else nothing is right or wrong).
        """
        if split not in SPLITS:
            raise UsageError(f"There is no split {split!r}.", f"Splits: {', '.join(SPLITS)}.")
        if split not in self._examples:
            frame = repository.examples(self.workspace, self.study_id, split)
            is_image = frame["kind"] == "image"
            frame.insert(6, "payload", frame["image"].where(is_image, frame["text"]).astype(object))
            frame = frame.drop(columns=["image", "text"]).assign(has_classes=bool(self.info.get("num_classes")))
            if not len(frame) or not frame["goodness"].notna().to_numpy().any():
                return frame  # the model is not trained yet: ask again next time
            self._examples[split] = frame
        return self._examples[split].copy()

    def timings(self) -> pd.DataFrame:
        """Return step, label, seconds, peak_memory_mib, bytes, finished, device, remark of every finished step."""
        return self._read(repository.timings)

    def source(self, configuration_id: str, seeds: int | Sequence[int] | None = None) -> Source:
        """Return the spectra (one per training seed) or the score matrix of a configuration, memory-mapped."""
        stored = self._sources(configuration_id, seeds)
        rows = records(self.configurations(), ConfigurationRow)
        row = next(row for row in rows if row.configuration_id == configuration_id)
        filter_of = partial(method_row(row.method).filter, json.loads(row.parameters))
        keys = [each.artifact for each in stored]
        return cached_source(self._store, stored[0].kind, keys, filter_of, f"{row.method} {row.parameters}")

    def source_rows(self, configuration_id: str) -> list[SourceRow]:
        """Return what is stored of each training seed's spectrum or scores; nothing before it is computed."""
        return records(self._read(repository.sources, configuration_id), SourceRow)

    def _sources(self, configuration_id: str, seeds: int | Sequence[int] | None = None) -> list[SourceRow]:
        rows = self.source_rows(configuration_id)
        if not rows:
            raise UsageError(
                f"Configuration {configuration_id!r} of study {self.name} has no results yet.",
                f"See `{command('show', self.name)}` for what is there.",
            )
        if seeds is not None:
            allowed = f"Training seeds: {', '.join(str(row.seed_index) for row in rows)}."
            chosen = whole_numbers(seeds, "seeds", allowed)
            unknown = sorted(set(chosen) - {row.seed_index for row in rows})
            if unknown or not chosen:
                raise UsageError(f"Training seeds {unknown or chosen} are not there.", allowed)
            rows = [row for row in rows if row.seed_index in chosen]
        return rows

    def stored_self_influence(self, configuration_id: str, seeds: int | Sequence[int] | None = None) -> np.ndarray:
        """Return the self-influence stored beside a score matrix, mean over training seeds, ``[n]``."""
        artifacts = [self._store.open(row.artifact) for row in self._sources(configuration_id, seeds)]
        if not all("self_influence" in artifact.arrays() for artifact in artifacts):
            raise UsageError(
                f"Configuration {configuration_id} of study {self.name} was computed without self-influence.",
                "Set self_influence = true for the method in the study file, and run it again.",
            )
        return np.mean([artifact.array("self_influence") for artifact in artifacts], axis=0)

    def rank_intervals(
        self, configuration_id: str, query: int, positions: Sequence[int], regularizations: Sequence[float] | None
    ) -> np.ndarray:
        """Return the lowest and highest rank over training seeds of some training examples at every λ.

        Args:
            configuration_id: Which configuration.
            query: Position of the query.
            positions: c training positions.
            regularizations: L values of λ; ``None`` for methods without one (then L = 1).

        Returns:
            int ``[L, c, 2]``; rank 1 helps most. With one training seed both numbers are the same.
        """
        source: Any = self.source(configuration_id)
        if isinstance(source, ScoreMatrix):
            source = score_matrices(self._store, [row.artifact for row in self._sources(configuration_id)])
        return rank_intervals(source, self._query(query), positions, regularizations)

    def subset_masks(self, alpha: float | None = None) -> np.ndarray:
        """Return which training positions each retrained subset holds, bool ``[S, n]``."""
        return read_masks(self._retrainings(alpha))

    def subset_outputs(self, alpha: float | None = None) -> np.ndarray:
        """Return the retrained models' goodness of each query, ``[S, m]``, averaged over repeats."""
        indices = self._read(repository.split_indices, "queries")["index"].to_numpy()
        return read_outputs(self._retrainings(alpha), indices)

    def explorer_payload(
        self,
        configuration_id: str,
        query: int,
        num: int = 20,
        classes: Sequence[str] | None = None,
        correctness: str | None = None,
        regularizations: Sequence[float] | None = None,
    ) -> Payload:
        """Return what a browser needs to rank training examples of one query at any λ by itself.

        Args:
            configuration_id: Which configuration.
            query: Position of the query.
            num: Length of either list; the candidates are those that enter the top or bottom ``num`` at some λ.
            classes: Keep only training examples with one of these labels.
            correctness: ``right`` or ``wrong``: keep only those that the model predicts so.
            regularizations: λ grid for the candidates; default: λ = 0 and a fine grid over the study's range.

        Returns:
            See :class:`Payload`: ``score_i(λ) = Σ_r products[i, r]·φ(eigenvalues[r]; λ)``.
        """
        source = self.source(configuration_id)
        position = self._query(query)
        grid = self._explorer_grid(source) if regularizations is None else checked_regularizations(regularizations)
        whole = grid
        if not isinstance(source, ScoreMatrix):
            grid = admissible(source, grid, [position])
        # A margin, because between two λ of the grid an example may pass through the last places unseen.
        chosen = candidates(source, position, grid, num + num // 4 + 2, self._allowed(classes, correctness))
        return payload_of(source, position, chosen, whole)

    def _explorer_grid(self, source: Source) -> list[float]:
        positive = [value for value in grid_on(self.resolved.regularization, source) if value > 0]
        low, high = np.log10(min(positive)), np.log10(max(positive))
        count = round((high - low) * EXPLORER_GRID_PER_DECADE) + 1
        return [0.0, *np.logspace(low, high, count).tolist()]

    def _allowed(self, classes: Sequence[str] | None, correctness: str | None) -> np.ndarray | None:
        if correctness not in (None, "right", "wrong"):
            raise UsageError(f"correctness={correctness!r} is not known.", "Give 'right', 'wrong' or None.")
        if classes is None and correctness is None:
            return None
        train = self.examples("train")
        allowed = np.ones(len(train), dtype=bool)
        if classes is not None:
            allowed &= train["label"].isin([str(label) for label in classes]).to_numpy()
        if correctness is not None:
            if not bool(train["has_classes"].all()):
                raise UsageError("Nothing is predicted right or wrong: labels are no classes.", "Leave it out.")
            right = (train["prediction"] == train["label"]).to_numpy()
            allowed &= right if correctness == "right" else ~right
        return allowed

    def _read(self, query: Callable[..., pd.DataFrame], *arguments: Any) -> pd.DataFrame:
        """Return a query's rows; asked again only once the catalogue has changed (opening it costs 20 ms)."""
        token, key = catalogue_version(self.workspace), (query.__name__, *arguments)
        known = self._rows.get(key)
        if known is None or known[0] != token:
            if len(self._rows) >= MAX_REMEMBERED:
                self._rows.clear()
            known = self._rows[key] = (token, query(self.workspace, self.study_id, *arguments))
        return known[1].copy()

    def _retrainings(self, alpha: float | None) -> list[Artifact]:
        rows = self._read(repository.retrainings, self.known_alpha(alpha))
        if not len(rows):
            raise UsageError(
                f"Study {self.name} has no retrained subsets yet.", f"Let `{command('run', self.name)}` go on."
            )
        return [self._store.open(key) for key in rows["artifact"]]

    def known_alpha(self, alpha: float | None) -> float:
        """Return the study's own value of α: the one that is asked for, the first one for ``None``.

        Raises:
            UsageError: The study has no subsets of that share.
        """
        if alpha is None:
            return self.alphas[0]
        for known in self.alphas:
            if isinstance(alpha, Real) and abs(known - float(alpha)) < 1e-9:
                return known
        raise UsageError(
            f"Study {self.name} has no subsets with alpha = {alpha}.",
            f"It has alpha = {', '.join(f'{value:g}' for value in self.alphas)}.",
        )

    def _query(self, query: Any) -> int:
        allowed = f"Give 0 to {self.num_queries - 1}."
        position = whole_number(query, "query", allowed)
        if not 0 <= position < self.num_queries:
            raise UsageError(
                f"Query {query} is out of range: study {self.name} has {self.num_queries} queries.",
                allowed,
            )
        return position
