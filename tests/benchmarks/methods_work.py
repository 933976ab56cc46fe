"""One piece of work of the benchmark of methods, in a process of its own: ours or a peer's.

    python -m tests.benchmarks.methods_work FOLDER NAME ...

FOLDER holds ``settings.json`` and the checkpoints ``epoch-*.safetensors`` that :mod:`tests.benchmarks.bench_methods`
wrote. The clock runs from loaded data, model and modules to scores in memory; peak memory is the process's. Each
result is one JSON line after ``RESULT`` (or a reason after ``FAILED``); scores ``[m, n]`` in our sign are left in
``FOLDER/<NAME>.npz``.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from tda_backend.interfaces.reading.influence import score_table
from tda_backend.models.probe import Probe
from tda_backend.models.tasks.registry import load_task
from tda_backend.models.training.run import TrainingRun
from tda_backend.numerics.attribution.arnoldi import arnoldi_spectrum
from tda_backend.numerics.attribution.conjugate_gradient import conjugate_gradient_scores
from tda_backend.numerics.attribution.ekfac import ekfac_spectrum
from tda_backend.numerics.attribution.influence import influence_spectrum, trak_spectrum
from tda_backend.numerics.attribution.lissa import LissaSettings, lissa_scores
from tda_backend.numerics.attribution.logra import logra_spectrum
from tda_backend.numerics.attribution.representation import representation_similarity
from tda_backend.numerics.attribution.tracin import tracin_scores
from tda_backend.numerics.curvature.kronecker.fisher import Fisher
from tda_backend.numerics.curvature.problem import ambient_problem
from tda_backend.numerics.curvature.pseudo_gradients import Curvature
from tda_backend.numerics.features.checkpoint_features import checkpoint_features
from tda_backend.numerics.features.projection import Projection, gaussian_from_gram, nested, project_factors
from tda_backend.numerics.spectral.contraction import scores
from tda_backend.numerics.trajectory.hydra import hydra_scores
from tda_backend.numerics.trajectory.source.fit import fit_source
from tda_backend.numerics.trajectory.source.segments import source_segments
from tda_backend.numerics.trajectory.source.settings import CheckpointedRun, SourceSettings
from tda_backend.seeds import hashed_seed
from tda_backend.types import Batch, Task


@dataclass
class Work:
    """What every piece of work is given, and the clock it runs on."""

    folder: Path
    settings: dict[str, Any]
    parts: dict[str, float] = field(default_factory=dict)

    @cached_property
    def task(self) -> Task:
        return load_task(self.settings["task"])

    @cached_property
    def data(self) -> dict[str, Batch]:
        return self.task.datasets()

    @property
    def groups(self) -> tuple[range, range, range]:
        """Train, validation and query rows; one row behind the queries serves as validation."""
        queries = self.settings["num_queries"]
        return range(self.settings["num_train"]), range(queries, queries + 1), range(queries)

    def rows(self, split: str) -> tuple[Tensor, Tensor]:
        """Return inputs and labels that take part."""
        index = list(self.groups[0] if split == "train" else self.groups[2])
        return self.data[split]["x"][index], self.data[split]["y"][index]

    @cached_property
    def states(self) -> list[dict[str, Tensor]]:
        return [safetensors.torch.load_file(self.folder / f"epoch-{e}.safetensors") for e in self.settings["epochs"]]

    def model(self, index: int = -1) -> nn.Module:
        """Return the model at a checkpoint."""
        model = self.task.build_model(0)
        model.load_state_dict(self.states[index])
        return model.eval()

    def probe(self, index: int = -1) -> Probe:
        """Return the question to the model at a checkpoint."""
        return Probe(self.task, self.model(index), self.data, *self.groups)

    @cached_property
    def labels(self) -> Tensor:
        """Return sampled labels of the true Fisher, one per train example, the same for both sides."""
        generator = torch.Generator().manual_seed(hashed_seed("benchmark", "labels"))
        with torch.no_grad():
            probabilities = self.model()(self.rows("train")[0]).softmax(1)
        return torch.multinomial(probabilities, 1, generator=generator)[:, 0]

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add the wall time of a block to a part."""
        start = time.perf_counter()
        yield
        self.parts[part] = self.parts.get(part, 0.0) + time.perf_counter() - start


Scores = dict[str, np.ndarray] | None


def _features(work: Work, index: int = -1) -> Any:

    return checkpoint_features(work.probe(index))


def ours_kronecker(work: Work, kind: Any = "ekfac", dampings: list[float] | None = None) -> Scores:
    """Fit factors once, then score at every damping."""

    labels = work.labels
    with work.timed("factors"):
        spectrum = ekfac_spectrum(work.probe(), kind=kind, fisher=Fisher(targets=labels))
    values = dampings or work.settings["dampings"]
    with work.timed("scores"):
        table = score_table([spectrum], values)
    return {str(value): each for value, each in zip(values, table, strict=True)}


def kronfluence_ekfac(work: Work) -> Scores:
    """kronfluence 1.0.1 in its defaults (float32): factors once, then gradients and scores anew for every damping."""
    from tests.peers.with_kronfluence import kronfluence_scores

    labels = work.labels
    dampings = {str(value): value for value in work.settings["dampings"]}
    with work.timed("all"):
        found = kronfluence_scores(
            work.model(),
            work.rows("train"),
            work.rows("test"),
            dampings,
            sampled_labels=labels,
            dtype=None,
            self_scores=False,
            batch_size=work.settings["batch_size"],
        )
    return {name: -found[f"pairwise/{name}"] for name in dampings}


def ours_trak(work: Work, kind: Any) -> Scores:
    """Every k and λ: gradients and projection to the largest k once, one eigendecomposition per k, a filter per λ."""

    largest = max(work.settings["dims"])
    with work.timed("gradients"):
        features = _features(work)
    with work.timed("projection"):
        if kind == "gaussian":
            projected = gaussian_from_gram(features.full_gram(), largest, 0, overwrite=True)
        else:
            projected = project_factors(features.factors, Projection(kind, largest, 0))
    for dim in work.settings["dims"]:
        with work.timed(f"k={dim}"):
            spectrum = trak_spectrum(features, projected=nested(projected, dim))
            for value in work.settings["regularizations"]:
                scores([spectrum], value)
    return None


def dattri_trak(work: Work, dim: int) -> Scores:
    """dattri 0.3.0, one λ: it starts anew from the gradients for every other."""
    from tests.peers import with_dattri

    train, queries = work.rows("train"), work.rows("test")
    model = work.model()
    num_parameters = sum(p.numel() for p in model.parameters())
    value = work.settings["regularizations"][0] * len(train[1]) / num_parameters
    with work.timed("all"):
        with_dattri.trak(model, work.states[-1:], train, queries, dim, value, work.settings["batch_size"])
    return None


def ours_tracin(work: Work, dim: int | None = None) -> Scores:
    """Four checkpoints; unprojected (exact) or projected."""

    with work.timed("all"):
        features = [_features(work, index) for index in range(len(work.states))]
        projected = None
        if dim is not None:
            projected = [gaussian_from_gram(f.full_gram(), dim, i, overwrite=True) for i, f in enumerate(features)]
        found = tracin_scores(features, work.settings["learning_rates"], projected=projected).values
    return None if dim is not None else {"scores": found.numpy()}


def dattri_tracin(work: Work, dim: int | None = None) -> Scores:
    """dattri 0.3.0, margin as target: it takes the queries' gradients anew for every batch of train examples."""
    from tests.peers import with_dattri

    with work.timed("all"):
        found = with_dattri.tracin(
            work.model(),
            work.states,
            work.settings["learning_rates"],
            work.rows("train"),
            work.rows("test"),
            dim=dim,
            batch_size=work.settings["batch_size"],
            target="margin",
        )
    return None if dim is not None else {"scores": -found.T}


def ours_cg(work: Work) -> Scores:
    """Ten ambient steps on the Hessian for the first queries."""

    with work.timed("all"):
        probe = work.probe()
        probe = probe.only("query", probe.rows("query")[: work.settings["cg_queries"]])
        problem = ambient_problem(probe, Curvature("hessian"))
        found = conjugate_gradient_scores(problem, work.settings["cg_regularization"], max_iter=10).values
    return {"scores": found.numpy()}


def dattri_cg(work: Work) -> Scores:
    """dattri 0.3.0, ten steps, one full batch (with several it would sum their inverses)."""
    from tests.peers import with_dattri

    train, queries = work.rows("train"), work.rows("test")
    first = slice(work.settings["cg_queries"])
    with work.timed("all"):
        found = with_dattri.influence(
            "CG",
            work.model(),
            work.states[-1],
            train,
            (queries[0][first], queries[1][first]),
            len(train[1]),
            max_iter=10,
            regularization=work.settings["cg_regularization"],
            target="margin",
        )
    return {"scores": -found.T}


def ours_logra(work: Work, rank: int = 64) -> Scores:
    """Rank 64 a side, one damping."""

    with work.timed("all"):
        spectrum = logra_spectrum(work.probe(), rank=rank)
        scores([spectrum], 0.1)
    return None


def dattri_logra(work: Work, rank: int = 64) -> Scores:
    """dattri 0.3.0, rank 64 a side, one damping."""
    from tests.peers import with_dattri

    with work.timed("all"):
        with_dattri.logra(
            work.model(),
            work.states[-1],
            work.rows("train"),
            work.rows("test"),
            rank,
            0.1,
            work.settings["batch_size"],
        )
    return None


def ours_iffim(work: Work) -> Scores:
    """Unprojected, one λ: the dual n × n eigendecomposition that serves every λ."""

    with work.timed("all"):
        features = _features(work)
        scores([influence_spectrum(features, gram=features.full_gram())], 1e-2)
    return None


def ours_lissa(work: Work) -> Scores:
    """Batches of 50, Gauss–Newton."""

    with work.timed("all"):
        probe = work.probe()
        probe = probe.only("query", probe.rows("query")[: work.settings["cg_queries"]])
        problem = ambient_problem(probe, Curvature("ggn"))
        lissa_scores(problem, 1e-2, LissaSettings(scaling=1e3, depth=work.settings["lissa_depth"], batch_size=50))
    return None


def ours_arnoldi(work: Work) -> Scores:
    """Iterations on the Gauss–Newton matrix, all Ritz values kept."""

    with work.timed("all"):
        spectrum = arnoldi_spectrum(
            work.probe(),
            Curvature("ggn"),
            num_iterations=work.settings["arnoldi_steps"],
            indefinite="clip",
        )
        scores([spectrum], 1e-2)
    return None


def ours_source(work: Work, fast: bool = False) -> Scores:
    """Three segments over the checkpoints at hand, EK-FAC."""

    train, _, queries = work.groups
    epochs = work.settings["epochs"]
    with work.timed("all"):
        segments = source_segments(work.task.training, len(train), epochs[-1], 2, len(epochs))
        states = dict(zip(epochs, work.states, strict=True))
        fit_source(CheckpointedRun(work.task, work.data, states, segments, train), SourceSettings(fast=fast)).scores(
            queries
        )
    return None


def ours_hydra(work: Work) -> Scores:
    """The whole training replayed."""

    train, _, queries = work.groups
    with work.timed("all"):
        hydra_scores(
            TrainingRun(work.task, work.data, train, work.settings["seed"]),
            queries,
            last_epoch=work.settings["epochs"][-1],
        )
    return None


def ours_repsim(work: Work) -> Scores:
    """Cosine of the last hidden activations."""

    with work.timed("all"):
        representation_similarity(work.probe())
    return None


WORK: dict[str, Callable[[Work], Scores]] = {
    "ours-ekfac": ours_kronecker,
    "kronfluence-ekfac": kronfluence_ekfac,
    "ours-trak-gaussian": lambda work: ours_trak(work, "gaussian"),
    "ours-trak-kronecker": lambda work: ours_trak(work, "kronecker"),
    "ours-trak-sparse": lambda work: ours_trak(work, "sparse"),
    "ours-tracin": ours_tracin,
    "ours-tracin-512": lambda work: ours_tracin(work, 512),
    "dattri-tracin": dattri_tracin,
    "dattri-tracin-512": lambda work: dattri_tracin(work, 512),
    "ours-cg": ours_cg,
    "dattri-cg": dattri_cg,
    "ours-logra": ours_logra,
    "dattri-logra": dattri_logra,
    "ours-iffim": ours_iffim,
    "ours-ekfac-one": lambda work: ours_kronecker(work, "ekfac", [1e-3]),
    "ours-kfac": lambda work: ours_kronecker(work, "kfac", [1e-3]),
    "ours-diagonal": lambda work: ours_kronecker(work, "diagonal", [1e-3]),
    "ours-lissa": ours_lissa,
    "ours-arnoldi": ours_arnoldi,
    "ours-source": ours_source,
    "ours-fast-source": lambda work: ours_source(work, fast=True),
    "ours-hydra": ours_hydra,
    "ours-repsim": ours_repsim,
}
"""By name. A new method is one line here and one in ``bench_methods.SINGLES``."""


TOOLS = {
    "kronfluence": ("kronfluence.analyzer", "kronfluence.arguments"),
    "dattri": ("dattri.task", "dattri.algorithm", "dattri.algorithm.influence_function", "dattri.algorithm.logra"),
}
"""Modules of the peers, imported before the clock starts."""


def _warm_up(work: Work) -> None:
    """Let torch load what it loads at a first gradient, plain and mapped over examples."""
    model, (inputs, labels) = work.model(), work.rows("train")
    nn.functional.cross_entropy(model(inputs[:2]), labels[:2]).backward()
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(values: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(torch.func.functional_call(model, values, x[None]), y[None])

    torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(parameters, inputs[:2], labels[:2])


def run(name: str, folder: Path) -> dict[str, Any]:
    """Do one piece of work and return what it took."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    work = Work(folder, json.loads((folder / "settings.json").read_text()))
    if name.startswith("dattri-trak-"):

        def piece(w: Work) -> Scores:
            return dattri_trak(w, int(name.rsplit("-", 1)[1]))
    else:
        piece = WORK[name]
    _ = work.data, work.states, work.labels  # loaded before the clock starts, and so is the tool
    for module in TOOLS.get(name.split("-")[0], ()):
        importlib.import_module(module)
    _warm_up(work)
    before, cpu = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    found = piece(work)
    cpu = time.process_time() - cpu
    if found is not None:
        np.savez(folder / f"{name}.npz", **{key: value.astype(np.float32) for key, value in found.items()})
    return {
        "seconds": sum(work.parts.values()),
        "cpu": cpu,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "start": before / 2**20,
        "parts": work.parts,
    }


if __name__ == "__main__":
    for name in sys.argv[2:]:
        try:
            print("RESULT" + json.dumps(run(name, Path(sys.argv[1]))), flush=True)
        except Exception as error:  # one piece of several: the others are still wanted
            print("FAILED" + f"{type(error).__name__}: {error}", flush=True)
