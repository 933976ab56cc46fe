"""Which steps a configuration's scores come from: features, spectra, Kronecker factors, score matrices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from tda_backend.errors import StudyError, UsageError
from tda_backend.methods import METHODS
from tda_backend.seeds import hashed_seed
from tda_backend.training.data import num_rows, validate_data
from tda_backend.trajectory.segments import TrainingSegment
from tda_backend.trajectory.staged import run_segments
from tda_backend.types import Task

CHUNK = 10
TRAJECTORY = ("source", "fast-source")


class Adder(Protocol):
    """Adds one step to a plan and returns its key."""

    def __call__(
        self, name: str, label: str, settings: dict, inputs: dict[str, Any], context: dict, weight: float,
        optional: Sequence[str] = (),
    ) -> str: ...  # fmt: skip


def trajectory_segments(row: Mapping[str, Any], task: Task, num_train: int) -> tuple[TrainingSegment, ...]:
    """Return the segments of SOURCE's configuration.

    Raises:
        StudyError: The run is too short for the checkpoints asked for, or they are no multiple of the segments.
    """
    parameters, method, epoch = row["parameters"], row["method"], row["training_epoch"]
    try:
        # Which rows take part decides the steps of an epoch, but not the checkpoints, which is what a plan needs.
        train = validate_data(task)["train"]
        rows = np.arange(num_rows(train) if task.stages else num_train)
        return run_segments(task, train, rows, epoch, parameters["num_segments"], parameters["num_checkpoints"])
    except UsageError as error:
        raise StudyError(
            f"Method {method} to epoch {epoch}: {error.message}",
            f"{error.hint} Or leave {epoch} out of methods.{method}.epochs.",
        ) from error


def checkpoint_epochs(rows: Sequence[Mapping[str, Any]], study: Mapping[str, Any], task: Task) -> list[int]:
    """Return every epoch at which training runs keep a checkpoint: the study's, and those that trajectories need."""
    epochs = set(study["training"]["epochs"])
    for row in rows:
        if row["method"] in TRAJECTORY:
            for segment in trajectory_segments(row, task, study["data"]["train"]):
                epochs.update(segment.epochs)
    return sorted(epochs)


class Sources:
    """Adds what configurations need to a plan, each step once.

    Args:
        add: Adds a step.
        study: The resolved study.
        examples: Key of the examples.
        trained: Key of the training run of each seed.
        model_epochs: Estimated seconds of one training run.
    """

    def __init__(
        self, add: Adder, study: Mapping[str, Any], examples: str, trained: list[str], model_epochs: float
    ) -> None:
        self.add, self.study, self.examples, self.trained = add, study, examples, trained
        self.model_epochs = model_epochs
        data = study["data"]
        self.num_vectors = data["train"] + data["validation"] + data["queries"]
        self.size = self.num_vectors / 6000
        self._halves: dict[int, list[str]] = {}

    def of(self, row: Mapping[str, Any]) -> list[str]:
        """Return the keys of a configuration's sources, one per training seed (or model of an ensemble)."""
        spec = METHODS[row["method"]]
        if row["parameters"].get("half_subset_models"):
            return [
                self._spectrum(row, key, ("half", number), number, f" half-subset model {number + 1}")
                for number, key in enumerate(self._half_models(row))
            ]
        build: Callable[[Mapping[str, Any], int], str] = {
            "spectrum": self._spectral,
            "curvature": self._curvature,
            "kronecker": self._kronecker,
            "scores": self._scores,
        }[spec.recipe]
        return [build(row, seed) for seed in range(len(self.trained))]

    def _of(self, seed: int) -> str:
        return f" seed {seed}" if len(self.trained) > 1 else ""

    def _model(self, seed: int) -> dict[str, Any]:
        return {"examples": self.examples, "train": self.trained[seed]}

    def _context(self, row: Mapping[str, Any], seed: int) -> dict[str, Any]:
        return {"seed_index": seed, "configurations": [row["configuration_id"]]}

    def _half_models(self, row: Mapping[str, Any]) -> list[str]:
        """Add the models trained on random halves of the data; a smaller ensemble is the start of a larger one."""
        keys = []
        for number in range(row["parameters"]["half_subset_models"]):
            settings = {
                "epochs": self.study["training"]["epochs"], "subset": number, "alpha": 0.5,
                "subset_seed": hashed_seed("half-subsets", self.study["seed"]),
                "seed": hashed_seed("half-training", self.study["seed"], number),
            }  # fmt: skip
            label = f"train half-subset model {number + 1}"
            keys.append(self.add("train-half", label, settings, {"examples": self.examples}, {}, self.model_epochs / 2))
        return keys

    def _features(self, trained: str, epoch: int, of: str) -> str:
        inputs = {"examples": self.examples, "train": trained}
        return self.add("features", f"features epoch {epoch}{of}", {"epoch": epoch}, inputs, {}, 1.0 * self.size)

    def _projection(self, dim: int | None, draw: tuple, epoch: int) -> dict[str, Any]:
        projection = self.study["projection"]
        if dim is None:
            return {"dim": None}
        seed = hashed_seed("projection", projection["seed"], *draw, epoch)
        return {"dim": dim, "kind": projection["kind"], "max_dim": projection["max_dim"], "draw": seed}

    def spectrum(self, row: Mapping[str, Any], seed: int) -> str:
        """Add the spectrum of one training seed from its Gram matrix or projected features."""
        return self._spectrum(row, self.trained[seed], (seed,), seed, self._of(seed))

    def _spectrum(self, row: Mapping[str, Any], trained: str, draw: tuple, index: int, of: str) -> str:
        epoch, dim = row["training_epoch"], row["projection_dim"]
        features = "trak" if row["method"] == "trak" else "iffim"
        settings = {"method": features, **self._projection(dim, draw, epoch)}
        cost = 18 * self.size**3 if dim is None else 0.5 + 4 * (dim / 2048) ** 2 * self.size
        inputs: dict[str, Any] = {"features": self._features(trained, epoch, of)}
        if settings.get("kind", "gaussian") != "gaussian":  # models without factors take their gradients again
            inputs |= {"examples": self.examples, "train": trained}
            settings["epoch"] = epoch
        shown = "unprojected" if dim is None else f"k={dim}"
        label = f"spectrum {METHODS[features].title} · {shown} · epoch {epoch}{of}"
        return self.add("spectrum", label, settings, inputs, self._context(row, index), cost)

    def _spectral(self, row: Mapping[str, Any], seed: int) -> str:
        empirical = row["parameters"].get("curvature", "empirical-fisher") == "empirical-fisher"
        return self.spectrum(row, seed) if empirical else self._curvature(row, seed)

    def _curvature(self, row: Mapping[str, Any], seed: int) -> str:
        epoch, dim = row["training_epoch"], row["projection_dim"]
        spec = METHODS[row["method"]]
        inside = {item.name for item in spec.hyperparameters if item.in_filter}
        parameters = {k: v for k, v in row["parameters"].items() if k not in inside and k != "projection"}
        projection = self._projection(dim, (seed,), epoch)
        if dim is not None:
            projection["kind"] = row["parameters"]["projection"]
        recipe = row["method"] if row["method"] in ("logra", "if-arnoldi") else "if-explicit"
        settings = {
            "recipe": recipe, "epoch": epoch, "parameters": parameters,
            "seed": hashed_seed(recipe, self.study["seed"], seed), **projection,
        }  # fmt: skip
        label = f"coordinates {row['label']}{self._of(seed)}"
        return self.add("curvature", label, settings, self._model(seed), self._context(row, seed), 30 * self.size**3)

    def _kronecker(self, row: Mapping[str, Any], seed: int) -> str:
        settings = {
            "kind": row["method"], "epoch": row["training_epoch"], "parameters": row["parameters"],
            "seed": hashed_seed("labels", self.study["seed"], seed),
        }  # fmt: skip
        label = f"factors {row['label']}{self._of(seed)}"
        return self.add("kronecker", label, settings, self._model(seed), self._context(row, seed), 6 * self.size)

    def _scores(self, row: Mapping[str, Any], seed: int) -> str:
        name, epoch, parameters = row["method"], row["training_epoch"], row["parameters"]
        settings: dict[str, Any] = {"method": name, "epoch": epoch, **parameters}
        context, of = self._context(row, seed), self._of(seed)
        inputs: dict[str, Any] = self._model(seed)
        cost = 3.0 * self.size
        if name == "tracin":
            settings |= self._projection(row["projection_dim"], (seed,), epoch)
            inputs["features"] = [self._features(self.trained[seed], each, of) for each in parameters["epochs"]]
        elif name == "gradient-similarity":
            inputs["features"] = [self._features(self.trained[seed], epoch, of)]
        elif name in TRAJECTORY:
            settings |= {"seed": hashed_seed("labels", self.study["seed"], seed)}
            cost = 8.0 * self.size * parameters["num_checkpoints"]
        elif name == "hydra-fast":
            cost = 2 * self.model_epochs + 60 * self.size**2
        elif name == "unrolled-influence":  # per query as much arithmetic as training, without its calls
            cost = 0.3 * self.model_epochs * self.study["data"]["queries"]
        elif name in ("if-cg-run", "if-lissa-run"):
            settings["seed"] = hashed_seed(name, self.study["seed"], seed)
            cost = 90 * self.size**2
        elif name == "empirical-influence":
            inputs |= {"downsample": self._downsampled(parameters)}
        elif name == "random":
            settings["seed"] = hashed_seed("random", self.study["seed"], seed)
        return self.add("scores", f"scores {row['label']}{of}", settings, inputs, context, cost)

    def _downsampled(self, parameters: Mapping[str, Any]) -> list[str]:
        total, alpha = parameters["subsets"], parameters["subset_fraction"]
        keys = []
        for first in range(0, total, CHUNK):
            last = min(first + CHUNK, total)
            settings = {"alpha": alpha, "first": first, "last": last, "repeats": 1,
                        "seed": hashed_seed("downsampling", self.study["seed"])}  # fmt: skip
            label = f"retrain own subsets {first + 1}–{last} of empirical influence"
            weight = (last - first) * alpha * self.model_epochs * 0.6
            keys.append(self.add("downsample", label, settings, {"examples": self.examples}, {}, weight))
        return keys
