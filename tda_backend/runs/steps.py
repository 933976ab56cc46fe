"""The table of steps: what computes each step of a plan. Inputs come from artifacts, output goes through a writer."""

from __future__ import annotations

from collections.abc import Callable

from tda_backend.runs.claim_step import run_claims
from tda_backend.runs.context import RunContext
from tda_backend.runs.coordinate_steps import run_curvature, run_features, run_kronecker, run_spectrum
from tda_backend.runs.detect_step import run_detect
from tda_backend.runs.evaluate_step import evaluated
from tda_backend.runs.example_steps import run_examples
from tda_backend.runs.loo_steps import run_loo, run_loo_choice, run_loo_scores
from tda_backend.runs.lookahead_steps import run_lookahead, run_lookahead_summary
from tda_backend.runs.plan import Step
from tda_backend.runs.removal_steps import run_base, run_removal, run_removal_order
from tda_backend.runs.rules_step import run_rules
from tda_backend.runs.score_steps import run_scores
from tda_backend.runs.sources import read_configuration, read_masks, read_outputs
from tda_backend.runs.training_steps import run_retrain, run_train, run_train_half
from tda_backend.runs.trajectory_comparison import run_comparison, run_summary
from tda_backend.runs.trajectory_steps import run_influence, run_proxy, run_truth
from tda_backend.store.artifacts import ArtifactWriter


def run_evaluate(context: RunContext, step: Step, writer: ArtifactWriter) -> None:
    """Evaluate one configuration: LDS and ξ over λ, λ* with its baselines, top examples at λ*."""
    store, settings = context.store, step.settings
    queries = context.positions(step)["queries"]
    row = {"method": settings["method"], "parameters": settings.get("parameters", {})}
    source = read_configuration(store, row, step.inputs["sources"])
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
    writer.facts["num_grid"] = result.num_grid


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
    "rules": run_rules,
    "claims": run_claims,
    "counterfactual-base": run_base,
    "removal-order": run_removal_order,
    "removal": run_removal,
    "loo-choice": run_loo_choice,
    "loo": run_loo,
    "loo-scores": run_loo_scores,
    "detect": run_detect,
    "trajectory-influence": run_influence,
    "trajectory-truth": run_truth,
    "trajectory-proxy": run_proxy,
    "trajectory-comparison": run_comparison,
    "trajectory-summary": run_summary,
    "lookahead": run_lookahead,
    "lookahead-summary": run_lookahead_summary,
}
