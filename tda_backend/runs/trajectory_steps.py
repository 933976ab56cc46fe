"""The steps that unroll training runs: predictions, the truth, and what predictions miss.

Predictions are computed in float32, as they would be at any size; the truth and the error proxy are differences of
nearly equal losses and take float64. Both precisions train the same run: same seed, batches and rates.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tda_backend.runs.context import RunContext
from tda_backend.runs.plan import Step
from tda_backend.seeds import hashed_rng
from tda_backend.store.artifacts import ArtifactStore, ArtifactWriter
from tda_backend.training.fit import reproducible
from tda_backend.training.schedule import training_settings
from tda_backend.trajectory.unrolled.error_proxy import error_proxies
from tda_backend.trajectory.unrolled.influence import Variant, unrolled_influences
from tda_backend.trajectory.unrolled.recording import Trajectory, record
from tda_backend.trajectory.unrolled.removal import VARIANTS, removal_effects


def removed_positions(num_train: int, count: int, seed: int) -> np.ndarray:
    """Return the training positions that a study leaves out, one at a time: drawn at random, ascending, ``[R]``."""
    return np.sort(hashed_rng("removed", seed).permutation(num_train)[:count])


def horizon_steps(num_steps: int, count: int) -> list[int]:
    """Return up to ``count`` numbers of steps, equally spaced, the last one all of them."""
    return sorted({max(1, round(num_steps * number / count)) for number in range(1, count + 1)})


def variants_of(curvatures: list[str]) -> list[Variant]:
    """Return what a study predicts by: the optimizer as trained with each curvature, and SGD with the first."""
    return [*(Variant("as trained", kind) for kind in curvatures), Variant("sgd", curvatures[0])]  # type: ignore[arg-type]  # checked by the study's rules


def score_file(variant: Variant) -> str:
    """Return the name of the array with a variant's predictions."""
    return f"predicted_{variant.assume.replace(' ', '-')}_{variant.curvature}"


def snapshot_folder(store: ArtifactStore, step: Step) -> Path:
    """Return where a step may lay snapshots; a run that is killed leaves them to be cleared by the next one."""
    return store.folder / "tmp" / f"steps-{os.getpid()}-{step.key[:12]}"


def recorded(context: RunContext, step: Step, dtype: torch.dtype) -> Trajectory:
    """Train the step's run and record it."""
    settings = step.settings
    training = replace(training_settings(context.task), learning_rate=settings["learning_rate"])
    return record(
        context.task, context.data, context.positions(step)["train"], settings["seed"], settings=training, dtype=dtype,
        device=context.device, budget_gib=settings["budget_gib"], folder=snapshot_folder(context.store, step),
    )  # fmt: skip


def _removed(context: RunContext, step: Step) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions left out and their rows of the train split."""
    train = context.positions(step)["train"]
    positions = removed_positions(len(train), step.settings["removed"], step.settings["choice"])
    return positions, train[positions]


def run_influence(context: RunContext, step: Step, writer: ArtifactWriter) -> None:
    """Store what leaving out each of R examples is predicted to do to each query's loss, ``[R, m]`` a variant."""
    trajectory = recorded(context, step, torch.float32)
    positions, _ = _removed(context, step)
    variants = variants_of(step.settings["curvatures"])
    found = unrolled_influences(
        trajectory, context.positions(step)["queries"], variants, quantity="loss", on_progress=context.on_progress
    )
    writer.array("positions", positions)
    for variant, influence in found.items():
        writer.array(score_file(variant), influence.scores[:, positions].T.to("cpu", torch.float32))
    writer.facts |= {
        "optimizer": trajectory.settings.optimizer_text, "num_steps": trajectory.num_steps,
        "num_parameters": trajectory.num_parameters, "interval": trajectory.interval,
    }  # fmt: skip


def run_truth(context: RunContext, step: Step, writer: ArtifactWriter) -> None:
    """Store what leaving each example out really did: at the end ``[R, m]``, over the steps ``[H, R]``."""
    trajectory = recorded(context, step, torch.float64)
    positions, rows = _removed(context, step)
    queries = torch.from_numpy(context.positions(step)["queries"])
    horizons = horizon_steps(trajectory.num_steps, step.settings["horizons"])
    writer.array("positions", positions)
    writer.array("horizons", np.array(horizons))
    for number, variant in enumerate(VARIANTS):
        with reproducible(context.device):  # small products: threads would wait for each other
            effects = removal_effects(
                trajectory, torch.from_numpy(rows), trajectory.objective_of("test"), queries, variant=variant,
                horizons=horizons,
                on_progress=lambda done, total, before=number: context.on_progress(before * total + done, 2 * total),
            )  # fmt: skip
        writer.array(f"effects_{variant}", effects.effects.cpu())
        writer.array(f"horizons_{variant}", effects.at_horizons.cpu())
        if variant == VARIANTS[0]:
            writer.array("losses", effects.base_at_horizons.cpu())
    writer.array("rates", np.array(trajectory.rates))
    seen = [list(trajectory.steps_of(int(row))) for row in rows]
    writer.facts |= {"seen": seen, **_run_facts(trajectory)}


def _run_facts(trajectory: Trajectory) -> dict[str, Any]:
    steps = trajectory.num_steps
    return {
        "optimizer": trajectory.settings.optimizer_text, "num_steps": steps,
        "steps_per_epoch": steps // trajectory.settings.num_epochs, "num_parameters": trajectory.num_parameters,
    }  # fmt: skip


def run_proxy(context: RunContext, step: Step, writer: ArtifactWriter) -> None:
    """Store the second-order estimate of what the prediction misses, at the end and over the steps."""
    trajectory = recorded(context, step, torch.float64)
    _, rows = _removed(context, step)
    queries = torch.from_numpy(context.positions(step)["queries"])
    horizons = horizon_steps(trajectory.num_steps, step.settings["horizons"])
    with reproducible(context.device):
        proxies = error_proxies(
            trajectory, torch.from_numpy(rows), trajectory.objective_of("test"), queries, horizons=horizons,
            on_progress=context.on_progress,
        )  # fmt: skip
    for name in ("prediction", "cheap", "full", "prediction_at", "cheap_at", "full_at"):
        writer.array(name, getattr(proxies, name).cpu())
