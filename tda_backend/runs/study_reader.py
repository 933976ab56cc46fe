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

from tda_backend.errors import UsageError
from tda_backend.evaluation.ranks import rank_intervals
from tda_backend.methods import method as method_row
from tda_backend.methods import spectral_filter
from tda_backend.runs.arguments import regularizations as checked_regularizations
from tda_backend.runs.arguments import whole_number, whole_numbers
from tda_backend.runs.payload import payload_of
from tda_backend.runs.sources import cached_source, read_masks, read_outputs, score_matrices
from tda_backend.spectral.contraction import ScoreMatrix, Source, admissible
from tda_backend.spectral.one_query import candidates
from tda_backend.store import repository
from tda_backend.store.artifacts import ArtifactStore
from tda_backend.store.catalogue import owned_here
from tda_backend.store.workspace import Workspace

SPLITS = ("train", "validation", "queries", "test")
EXPLORER_GRID_PER_DECADE = 6
MAX_REMEMBERED = 512


def catalogue_version(db: str | Path | Workspace | None = None) -> str:
    """Return a token that changes when the catalogue does: a key for caches of what was read."""
    workspace = Workspace.at(db)
    if owned_here(workspace):
        rows = repository.query(workspace, "SELECT count(*) AS num, max(ingested)::VARCHAR AS last FROM ingested")
        return f"{rows['num'].iloc[0]}-{rows['last'].iloc[0]}"
    files = (workspace.catalogue, workspace.log, workspace.snapshot)
    return "-".join(str(path.stat().st_mtime_ns) for path in files if path.exists()) or "none"


class StudyReader:
    """Read access to one study of a catalogue; opened by :func:`tda_backend.open_study`.

    Attributes:
        workspace: Catalogue and artifacts.
        study_id: Which study.
        name: Its name.
        config: The resolved study file.
    """

    def __init__(self, workspace: Workspace, row: dict[str, Any]) -> None:
        self.workspace = workspace
        self.study_id: str = row["study_id"]
        self.name: str = row["name"]
        self.config: dict[str, Any] = row["config"]
        self._info: dict[str, Any] = row["info"]
        self._store = ArtifactStore(workspace.artifacts)
        self._examples: dict[str, pd.DataFrame] = {}
        self._rows: dict[tuple, tuple[str, pd.DataFrame]] = {}

    def __repr__(self) -> str:
        return f"<Study {self.name} ({self.study_id}) in {self.workspace.catalogue}>"

    @property
    def info(self) -> dict[str, Any]:
        """Facts about the study.

        Keys: ``study_id, name, task, task_spec, seed, num_train, num_validation, num_queries, num_test, num_subsets,
        repeats, alphas, num_seeds, epochs, regularizations (the λ grid), threshold, quantiles, class_names,
        num_classes, measurement, measurement_sign, margin_identity, training, device, torch, machine,
        code (version and hash of the program that planned it)``.
        """
        return {"study_id": self.study_id, "name": self.name, **self._info}

    @property
    def num_queries(self) -> int:
        return int(self._info["num_queries"])

    @property
    def num_train(self) -> int:
        return int(self._info["num_train"])

    @property
    def alphas(self) -> list[float]:
        return [float(alpha) for alpha in self._info["alphas"]]

    def configurations(self) -> pd.DataFrame:
        """Return the configurations that can be asked for by now.

        Columns: configuration_id, method, title, training_epoch, projection_dim (Int64, NA: unprojected), parameters
        (JSON), label, has_regularization, has_lds, num_seeds.
        """
        return self._read(repository.configurations)

    def curve(self, configuration_id: str, alpha: float | None = None) -> pd.DataFrame:
        """Return LDS(λ): regularization, mean, ci_low, ci_high, num_subsets, num_undefined, is_selected."""
        return self._read(repository.curve, configuration_id, self._alpha(alpha))

    def query_curve(self, configuration_id: str, query: int, alpha: float | None = None) -> pd.DataFrame:
        """Return one query's LDS(λ): regularization, lds."""
        position = self._query(query)
        return self._read(repository.query_curve, configuration_id, position, self._alpha(alpha))

    def indicator_curve(self, configuration_id: str) -> pd.DataFrame:
        """Return ξ(λ): regularization, mean, q05, q25, q50, q75, q95, num_dropped, is_selected."""
        return self._read(repository.indicator, configuration_id)

    def selections(self, alpha: float | None = None) -> pd.DataFrame:
        """Return λ* and its baselines of every configuration with λ; ``quantiles`` are dicts, ``warnings`` lists."""
        frame = self._read(repository.selections, alpha)
        frame["quantiles"] = [json.loads(text) for text in frame["quantiles"]]
        frame["warnings"] = [list(values) for values in frame["warnings"]]
        frame["projection_dim"] = frame["projection_dim"].astype("Int64")
        return frame

    def rules(self, alpha: float | None = None) -> pd.DataFrame:
        """Return what each rule for λ chose in each configuration and what it lost.

        Columns: label, method, training_epoch, projection_dim, configuration_id, alpha, rule (zero, default, q0.5 …,
        xi0.5 …, racing, oracle), regularization, lds, regret, num_retrainings.
        """
        return self._read(repository.rules, self._alpha(alpha))

    def tuning(self, alpha: float | None = None) -> pd.DataFrame:
        """Return what rules without retraining chose among epochs and projection dimensions, λ being chosen by ξ.

        Columns: alpha, what (training_epoch or projection_dim), method, among, rule (last, lowest-loss, progress;
        default, widest), chosen, configuration_id, lds, regret (against the best of them at its own λ*).
        """
        return self._read(repository.tuning, self._alpha(alpha))

    def race(self, alpha: float | None = None) -> dict[str, Any]:
        """Return how racing all configurations and λ over the study's retrainings ended; empty while there is none.

        Keys: label, method, configuration_id, regularization, lds, regret, num_candidates, num_retrainings,
        num_subsets, decided, sentence.
        """
        frame = self._read(repository.races, self._alpha(alpha))
        return {str(name): value for name, value in frame.iloc[0].items()} if len(frame) else {}

    def verdicts(self) -> pd.DataFrame:
        """Return what papers state and whether this study shows it.

        Columns: claim_id, paper, place, statement, check_name, verdict (reproduced, not reproduced, inconclusive),
        value, low, high, bound, numbers (list of sentences), note, configuration_ids, num_subsets.
        """
        frame = self._read(repository.verdicts)
        for name in ("numbers", "configuration_ids"):
            frame[name] = [list(values) for values in frame[name]]
        return frame

    def selection(self, configuration_id: str, alpha: float | None = None) -> dict[str, Any]:
        """Return one object of ``tda select --json``; empty if nothing was selected yet."""
        frame = self.selections(self._alpha(alpha))
        rows = frame[frame["configuration_id"] == configuration_id]
        return selection_record(rows.iloc[0].to_dict()) if len(rows) else {}

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
        return self._read(repository.lds_table, self._alpha(alpha))

    def examples(self, split: str = "train") -> pd.DataFrame:
        """Return the examples of a split: train, validation, queries or test (the whole test set).

        Columns: position, index, label, prediction, goodness, loss, payload (PNG bytes, or text), kind, caption.
        """
        if split not in SPLITS:
            raise UsageError(f"There is no split {split!r}.", f"Splits: {', '.join(SPLITS)}.")
        if split not in self._examples:
            frame = repository.examples(self.workspace, self.study_id, split)
            is_image = frame["kind"] == "image"
            frame.insert(6, "payload", frame["image"].where(is_image, frame["text"]).astype(object))
            frame = frame.drop(columns=["image", "text"])
            if not len(frame) or not frame["goodness"].notna().to_numpy().any():
                return frame  # the model is not trained yet: ask again next time
            self._examples[split] = frame
        return self._examples[split].copy()

    def timings(self) -> pd.DataFrame:
        """Return step, label, seconds, peak_memory_mib, bytes, finished, device of every finished step."""
        return self._read(repository.timings)

    def source(self, configuration_id: str, seeds: int | Sequence[int] | None = None) -> Source:
        """Return the spectra (one per training seed) or the score matrix of a configuration, memory-mapped."""
        rows = self._sources(configuration_id, seeds)
        frame = self.configurations()
        row = frame.loc[frame["configuration_id"] == configuration_id].iloc[0]
        parameters = str(row["parameters"])
        filter_of = partial(spectral_filter, method_row(str(row["method"])), json.loads(parameters))
        return cached_source(
            self._store, str(rows["kind"].tolist()[0]), rows["artifact"].tolist(), filter_of,
            f"{row['method']} {parameters}",
        )  # fmt: skip

    def _sources(self, configuration_id: str, seeds: int | Sequence[int] | None) -> pd.DataFrame:
        rows = self._read(repository.sources, configuration_id)
        if not len(rows):
            raise UsageError(
                f"Configuration {configuration_id!r} of study {self.name} has no results yet.",
                f"See `tda show {self.name}` for what is there.",
            )
        if seeds is not None:
            allowed = f"Training seeds: {', '.join(str(value) for value in rows['seed_index'])}."
            chosen = whole_numbers(seeds, "seeds", allowed)
            unknown = sorted(set(chosen) - set(rows["seed_index"]))
            if unknown or not chosen:
                raise UsageError(f"Training seeds {unknown or chosen} are not there.", allowed)
            rows = rows.loc[rows["seed_index"].isin(chosen)]
        return rows

    def stored_self_influence(self, configuration_id: str, seeds: int | Sequence[int] | None = None) -> np.ndarray:
        """Return the self-influence stored beside a score matrix, mean over training seeds, ``[n]``."""
        artifacts = [self._store.open(key) for key in self._sources(configuration_id, seeds)["artifact"]]
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
        rows = self._read(repository.sources, configuration_id)
        source: Any = self.source(configuration_id)
        if isinstance(source, ScoreMatrix):
            source = score_matrices(self._store, rows["artifact"].tolist())
        return rank_intervals(source, self._query(query), positions, regularizations)

    def subset_masks(self, alpha: float | None = None) -> np.ndarray:
        """Return which training positions each retrained subset holds, bool ``[S, n]``."""
        return read_masks(self._store, self._retrainings(alpha))

    def subset_outputs(self, alpha: float | None = None) -> np.ndarray:
        """Return the retrained models' goodness of each query, ``[S, m]``, averaged over repeats."""
        indices = self._read(repository.split_indices, "queries")["index"].to_numpy()
        return read_outputs(self._store, self._retrainings(alpha), indices)

    def explorer_payload(
        self,
        configuration_id: str,
        query: int,
        num: int = 20,
        classes: Sequence[str] | None = None,
        correctness: str | None = None,
        regularizations: Sequence[float] | None = None,
    ) -> dict[str, Any]:
        """Return what a browser needs to rank training examples of one query at any λ by itself.

        Args:
            configuration_id: Which configuration.
            query: Position of the query.
            num: Length of either list; the candidates are those that enter the top or bottom ``num`` at some λ.
            classes: Keep only training examples with one of these labels.
            correctness: ``right`` or ``wrong``: keep only those that the model predicts so.
            regularizations: λ grid for the candidates; default: λ = 0 and a fine grid over the study's range.

        Returns:
            See :func:`~tda_backend.runs.payload.payload_of`: ``score_i(λ) = Σ_r products[i, r]·φ(eigenvalues[r]; λ)``.
        """
        source = self.source(configuration_id)
        position = self._query(query)
        grid = self._explorer_grid if regularizations is None else checked_regularizations(regularizations)
        if not isinstance(source, ScoreMatrix):
            grid = admissible(source, grid, [position])
        # A margin, because between two λ of the grid an example may pass through the last places unseen.
        chosen = candidates(source, position, grid, num + num // 4 + 2, self._allowed(classes, correctness))
        return payload_of(source, position, chosen)

    @cached_property
    def _explorer_grid(self) -> list[float]:
        positive = [value for value in self._info["regularizations"] if value > 0]
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

    def _retrainings(self, alpha: float | None) -> list[str]:
        rows = self._read(repository.retrainings, self._alpha(alpha))
        if not len(rows):
            raise UsageError(f"Study {self.name} has no retrained subsets yet.", f"Let `tda run {self.name}` go on.")
        return list(rows["artifact"])

    def _alpha(self, alpha: float | None) -> float:
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


def selection_record(row: dict[str, Any]) -> dict[str, Any]:
    """Return one row of :meth:`StudyReader.selections` as the JSON-compatible object of ``tda select --json``."""

    def number(value: Any) -> float | None:
        return float(value) if value is not None and np.isfinite(value) else None

    return {
        "method": row["method"],
        "label": row["label"],
        "training_epoch": int(row["training_epoch"]),
        "projection_dim": None if pd.isna(row["projection_dim"]) else int(row["projection_dim"]),
        "alpha": float(row["alpha"]),
        "lambda_selected": number(row["lambda_selected"]),
        "xi_at_selected": number(row["xi_at_selected"]),
        "lds_selected": number(row["lds_selected"]),
        "lds_selected_ci": [number(row["lds_selected_low"]), number(row["lds_selected_high"])],
        "lambda_best": number(row["lambda_best"]),
        "lds_best": number(row["lds_best"]),
        "regret": number(row["regret"]),
        "lds_at_zero": number(row["lds_at_zero"]),
        "quantiles": {
            key: {name: number(value) for name, value in entry.items()} for key, entry in row["quantiles"].items()
        },
        "threshold": number(row["threshold"]),
        "num_crossings": int(row["num_crossings"]),
        "warnings": list(row["warnings"]),
        "num_subsets": int(row["num_subsets"]),
        "configuration_id": row["configuration_id"],
    }
