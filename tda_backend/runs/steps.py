"""The table of steps: what computes each step of a plan. Inputs come from artifacts, output goes through a writer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tda_backend.methods import method, spectral_filter
from tda_backend.runs.context import RunContext
from tda_backend.runs.coordinate_steps import run_curvature, run_features, run_kronecker, run_spectrum
from tda_backend.runs.evaluate_step import evaluated
from tda_backend.runs.example_steps import run_examples
from tda_backend.runs.plan import Step
from tda_backend.runs.score_steps import run_scores
from tda_backend.runs.sources import read_masks, read_outputs, read_source
from tda_backend.runs.training_steps import run_retrain, run_train, run_train_half
from tda_backend.store.artifacts import ArtifactWriter


def run_evaluate(context: RunContext, step: Step, writer: ArtifactWriter) -> None:
    """Evaluate one configuration: LDS and ξ over λ, λ* with its baselines, top examples at λ*."""
    store, settings = context.store, step.settings
    queries = context.positions(step)["queries"]
    kind = store.open(step.inputs["sources"][0]).step
    spec = method(settings["method"])
    filter_of = partial(spectral_filter, spec, settings.get("parameters", {}))
    source = read_source(store, kind, step.inputs["sources"], filter_of)
    truth = {}
    for alpha in settings["alphas"]:
        keys = step.inputs.get(f"retrain {alpha:g}", ())
        if keys:
            truth[alpha] = (read_masks(store, keys), read_outputs(store, keys, queries))
    result = evaluated(source, settings, truth)
    for name, table in result.tables.items():
        writer.table(name, table)
    for name, array in result.arrays.items():
        writer.array(name, array)


STEPS: dict[str, Callable[[RunContext, Step, ArtifactWriter], None]] = {
    "examples": run_examples,
    "train": run_train,
    "train-half": run_train_half,
    "retrain": run_retrain,
    "downsample": run_retrain,
    "features": run_features,
    "spectrum": run_spectrum,
    "curvature": run_curvature,
    "kronecker": run_kronecker,
    "scores": run_scores,
    "evaluate": run_evaluate,
}
