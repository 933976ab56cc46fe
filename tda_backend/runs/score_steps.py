"""The step that makes score matrices: one function a method, all [query, train] with positive = helps."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from tda_backend.attribution import baselines
from tda_backend.attribution.tracin import tracin_scores, tracin_self_influence
from tda_backend.features.checkpoint_features import CheckpointFeatures
from tda_backend.features.projection import Projection, gaussian_from_gram, nested, project_factors
from tda_backend.runs.context import RunContext
from tda_backend.runs.coordinate_steps import project_model
from tda_backend.runs.plan import Step
from tda_backend.runs.sources import read_masks, read_outputs
from tda_backend.runs.trajectory_steps import snapshot_folder
from tda_backend.seeds import hashed_seed
from tda_backend.solvers.conjugate_gradient import conjugate_gradient_scores
from tda_backend.solvers.lissa import lissa_scores
from tda_backend.solvers.problem import AmbientProblem, ambient_problem
from tda_backend.spectral.contraction import ScoreMatrix
from tda_backend.store.artifacts import ArtifactWriter
from tda_backend.trajectory.hydra import hydra_scores
from tda_backend.trajectory.source import fit_source
from tda_backend.trajectory.staged import run_segments
from tda_backend.trajectory.unrolled.influence import unrolled_influence
from tda_backend.trajectory.unrolled.recording import record

Scored: TypeAlias = ScoreMatrix | tuple[ScoreMatrix, Tensor]
"""Scores, with each training example's self-influence ``[n]`` where the method has one."""


def run_scores(context: RunContext, step: Step, writer: ArtifactWriter) -> None:
    """Score by a method without a spectrum."""
    context.memo.clear()
    scores, self_influence = SCORERS[step.settings["method"]](context, step), None
    if isinstance(scores, tuple):
        scores, self_influence = scores
    writer.array("scores", scores.values.to(torch.float32))
    if self_influence is not None:
        writer.array("self_influence", self_influence.to(torch.float64))


def _features(context: RunContext, key: str) -> CheckpointFeatures:
    return CheckpointFeatures.from_arrays(context.store.open(key).arrays())


def _tracin(context: RunContext, step: Step) -> Scored:
    settings = step.settings
    rates = context.store.open(step.inputs["train"][0]).manifest["learning_rates"]
    features = [_features(context, key) for key in step.inputs["features"]]
    projected = None
    if settings["dim"] is not None:
        pairs = zip(settings["epochs"], features, strict=True)
        projected = [_projected(context, step, epoch, each) for epoch, each in pairs]
    chosen = [float(rates[str(epoch)]) for epoch in settings["epochs"]]
    arguments = (features, chosen, settings["normalization"], projected)
    return tracin_scores(*arguments), tracin_self_influence(*arguments)


def _projected(context: RunContext, step: Step, epoch: int, features: CheckpointFeatures) -> Tensor:
    """Return one checkpoint's projected features; every checkpoint has its own draw."""
    settings = step.settings
    draw = hashed_seed("tracin", settings["draw"], epoch)
    if settings["kind"] == "gaussian":
        wide = gaussian_from_gram(features.full_gram(), settings["max_dim"], draw, overwrite=True)
    else:
        projection = Projection(settings["kind"], settings["max_dim"], draw)
        if features.factors is not None:
            wide = project_factors(features.factors, projection)
        else:
            wide = project_model(context, step, epoch, projection)
    return nested(wide, settings["dim"])


def _gradient_similarity(context: RunContext, step: Step) -> Scored:
    features = _features(context, step.inputs["features"][0])
    similarity = step.settings["similarity"]
    own = tracin_self_influence([features], [1.0], normalization=similarity == "cosine")
    return baselines.gradient_similarity(features, similarity), own


def _source(context: RunContext, step: Step) -> Scored:
    settings = step.settings
    train, _, queries = context.examples(step)
    segments = run_segments(
        context.task, context.data["train"], train, settings["epoch"], settings["num_segments"],
        settings["num_checkpoints"],
    )  # fmt: skip
    trained = context.store.open(step.inputs["train"][0])
    states = {
        epoch: trained.tensors(f"epoch-{epoch:04d}") for segment in segments for epoch in segment.epochs
    }  # fmt: skip
    fit = fit_source(
        context.task, context.data, states, segments, train, fisher=settings["fisher"],
        seed=settings["seed"], weight_decay=settings["weight_decay"], untracked=settings["untracked"],
        fast=settings["method"] == "fast-source", device=context.device,
        on_progress=lambda done, total: context.on_progress(done, 2 * total),
    )  # fmt: skip
    scores = fit.scores(queries, lambda done, total: context.on_progress(total + done, 2 * total))
    return (scores, fit.self_influence()) if settings["self_influence"] else scores


def _hydra(context: RunContext, step: Step) -> ScoreMatrix:
    epoch = step.settings["epoch"]
    train, _, queries = context.examples(step)
    trained = context.store.open(step.inputs["train"][0])
    seed = trained.manifest["settings"]["seed"]
    return hydra_scores(
        context.task, context.data, train, queries, seed, last_epoch=epoch,
        final_state=trained.tensors(f"epoch-{epoch:04d}"), device=context.device, on_progress=context.on_progress,
    )  # fmt: skip


def _unrolled(context: RunContext, step: Step) -> ScoreMatrix:
    settings, trained = step.settings, context.store.open(step.inputs["train"][0])
    train, _, queries = context.examples(step)
    trajectory = record(
        context.task, context.data, train.numpy(), trained.manifest["settings"]["seed"], last_epoch=settings["epoch"],
        device=context.device, folder=snapshot_folder(context.store, step),
    )  # fmt: skip
    found = unrolled_influence(
        trajectory, queries, assume=settings["assume"], curvature=settings["curvature"],
        on_progress=context.on_progress,
    )  # fmt: skip
    return ScoreMatrix(found.scores.cpu() * len(train))


def _problem(context: RunContext, step: Step) -> AmbientProblem:
    train, _, queries = context.examples(step)
    model = context.model(step, step.settings["epoch"])
    return ambient_problem(
        context.task, model, context.data, train, queries, curvature=step.settings["curvature"],
        seed=step.settings["seed"], device=context.device,
    )  # fmt: skip


def _cg(context: RunContext, step: Step) -> ScoreMatrix:
    settings = step.settings
    return conjugate_gradient_scores(
        _problem(context, step), settings["regularization"], max_iter=settings["max_iter"]
    )  # fmt: skip


def _lissa(context: RunContext, step: Step) -> ScoreMatrix:
    settings = step.settings
    return lissa_scores(
        _problem(context, step), settings["regularization"], scaling=settings["scaling"], depth=settings["depth"],
        batch_size=settings["batch_size"], num_repeats=settings["repeats"], seed=settings["seed"],
    )  # fmt: skip


def _repsim(context: RunContext, step: Step) -> ScoreMatrix:
    train, _, queries = context.examples(step)
    model = context.model(step, step.settings["epoch"])
    return baselines.representation_similarity(context.task, model, context.data, train, queries, device=context.device)


def _nearest(context: RunContext, step: Step) -> ScoreMatrix:
    train, _, queries = context.examples(step)
    return baselines.nearest_inputs(
        context.task, context.data, train, queries, metric=step.settings["metric"],
        signed=step.settings["signed"],
    )  # fmt: skip


def _random(context: RunContext, step: Step) -> ScoreMatrix:
    train, _, queries = context.examples(step)
    return baselines.random_scores(step.settings["seed"], train, queries)


def _empirical(context: RunContext, step: Step) -> ScoreMatrix:
    keys = step.inputs["downsample"]
    outputs = read_outputs(context.store, keys, context.positions(step)["queries"])
    return baselines.empirical_influence(read_masks(context.store, keys), np.asarray(outputs))


SCORERS: dict[str, Callable[[RunContext, Step], Scored]] = {
    "tracin": _tracin,
    "gradient-similarity": _gradient_similarity,
    "source": _source,
    "fast-source": _source,
    "hydra-fast": _hydra,
    "unrolled-influence": _unrolled,
    "if-cg-run": _cg,
    "if-lissa-run": _lissa,
    "repsim": _repsim,
    "nearest-inputs": _nearest,
    "random": _random,
    "empirical-influence": _empirical,
}
