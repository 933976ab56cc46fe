"""What is stored of one unrolled run, and the tables of its effects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from tda_backend.numerics.trajectory.unrolled.error_proxy import small_proxy
from tda_backend.numerics.trajectory.unrolled.influence import Variant
from tda_backend.studies.steps.unroll import score_file
from tda_backend.studies.store.artifact import Artifact
from tda_backend.studies.store.tables.trajectory import TRAJECTORY_EFFECTS, TRAJECTORY_PATHS, TRAJECTORY_RUNS

SHOWN_QUERIES = 24
"""Queries whose effects the catalogue holds one by one."""
_RUN_FACTS = ("optimizer", "num_steps", "steps_per_epoch", "num_parameters")


class Truth:
    """What leaving out each of R examples of a run did."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self.positions = artifact.array("positions")
        self.horizons: list[int] = artifact.array("horizons").tolist()
        self.seen: list[list[int]] = artifact.fact("seen")

    def effects(self, variant: str) -> np.ndarray:
        """Return the effects at the end, ``[R, m]``."""
        return np.asarray(self.artifact.array(f"effects_{variant}"))

    @property
    def over_steps(self) -> np.ndarray:
        """Effects on the mean loss of the queries, at the horizons, ``[H, R]``."""
        return np.asarray(self.artifact.array("horizons_fixed"))

    @property
    def first_seen(self) -> np.ndarray:
        """The step that first sees each example, ``[R]``."""
        return np.array([steps[0] for steps in self.seen])

    def run_table(self) -> pa.Table:
        """Return the row about the run."""
        row = {name: self.artifact.fact(name) for name in _RUN_FACTS}
        row |= {"rates": self.artifact.array("rates"), "steps": self.horizons, "losses": self.artifact.array("losses")}
        return TRAJECTORY_RUNS.rows([row])


class Proxy:
    """The second-order estimate of what a prediction misses."""

    def __init__(self, artifact: Artifact) -> None:
        self._artifact = artifact

    def full(self) -> np.ndarray:
        """Return the whole estimate at the end, ``[R, m]``."""
        return np.asarray(self._artifact.array("full"))

    def cheap(self) -> np.ndarray:
        """Return its first term at the end, ``[R, m]``."""
        return np.asarray(self._artifact.array("cheap"))

    @property
    def predicted_over_steps(self) -> np.ndarray:
        """The prediction itself, of the mean loss of the queries at the horizons, ``[H, R]``."""
        return np.asarray(self._artifact.array("prediction_at"))

    @property
    def full_over_steps(self) -> np.ndarray:
        """The whole estimate at the horizons, ``[H, R]``."""
        return np.asarray(self._artifact.array("full_at"))

    @property
    def cheap_over_steps(self) -> np.ndarray:
        """Its first term at the horizons, ``[H, R]``."""
        return np.asarray(self._artifact.array("cheap_at"))

    def sound(self) -> np.ndarray:
        """Return where the second order is a correction of the first, bool ``[R]``."""
        full, prediction = (torch.from_numpy(np.array(self._artifact.array(n))) for n in ("full", "prediction"))
        return small_proxy(full, prediction).numpy()


@dataclass(frozen=True)
class Results:
    """What is stored of one run.

    Attributes:
        influence: The predictions.
        variants: Of the predictions; the last one assumes SGD.
        truth: The true effects.
        proxy: What predictions miss; ``None``: not estimated.
    """

    influence: Artifact
    variants: Sequence[Variant]
    truth: Truth
    proxy: Proxy | None

    def predicted(self, number: int = 0) -> np.ndarray:
        """Return the predictions of a variant, ``[R, m]``."""
        return np.asarray(self.influence.array(score_file(self.variants[number])), dtype=np.float64)

    def effect_table(self) -> pa.Table:
        """Return effects on the mean over queries, then on the first queries one by one."""
        columns = {"predicted": self.predicted(), "predicted_sgd": self.predicted(-1)}
        columns |= {"truth": self.truth.effects("fixed"), "truth_smaller": self.truth.effects("smaller")}
        if self.proxy is not None:
            columns |= {"proxy": self.proxy.full(), "cheap": self.proxy.cheap()}
        rows = [self._effects(None, {name: values.mean(axis=1) for name, values in columns.items()})]
        shown = min(SHOWN_QUERIES, self.predicted().shape[1])
        for query in range(shown):
            rows.append(self._effects(query, {name: values[:, query] for name, values in columns.items()}))
        return TRAJECTORY_EFFECTS.rows(rows)

    def _effects(self, query: int | None, lists: Mapping[str, np.ndarray]) -> dict[str, Any]:
        return {"query": query, "positions": self.truth.positions, **lists}

    def path_table(self, proxy: Proxy) -> pa.Table:
        """Return the effects of every example over the steps."""
        truth = self.truth
        lists = {"truth": truth.over_steps, "predicted": proxy.predicted_over_steps}
        lists |= {"proxy": proxy.full_over_steps, "cheap": proxy.cheap_over_steps}
        sound = proxy.sound()
        rows = [
            {
                "position": int(position),
                "sound": bool(sound[number]),
                "seen": seen,
                "steps": truth.horizons,
                **{name: values[:, number] for name, values in lists.items()},
            }
            for number, (position, seen) in enumerate(zip(truth.positions, truth.seen, strict=True))
        ]
        return TRAJECTORY_PATHS.rows(rows)
