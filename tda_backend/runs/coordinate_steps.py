"""The steps that make spectral coordinates: from a checkpoint's features, or from passes over its model."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tda_backend.attribution.ekfac import ekfac_spectrum
from tda_backend.attribution.explicit import explicit_spectrum
from tda_backend.attribution.influence import build_spectrum
from tda_backend.attribution.logra import logra_spectrum
from tda_backend.features.checkpoint_features import CheckpointFeatures, checkpoint_features, gradient_requests
from tda_backend.features.dense import project_gradients
from tda_backend.features.projection import Projection, gaussian_from_gram, nested, project_factors
from tda_backend.runs.context import Memo, RunContext
from tda_backend.runs.plan import Step
from tda_backend.runs.sources import write_kronecker, write_spectrum
from tda_backend.solvers.arnoldi import arnoldi_spectrum
from tda_backend.store.artifacts import ArtifactWriter


def run_features(context: RunContext, step: Step, writer: ArtifactWriter) -> None:
    """Take gradients at one checkpoint."""
    model = context.model(step, step.settings["epoch"])
    features = checkpoint_features(context.task, model, context.data, *context.examples(step), context.device)
    for name, values in features.to_arrays().items():
        writer.array(name, values)


def run_spectrum(context: RunContext, step: Step, writer: ArtifactWriter) -> None:
    """Decompose one method's curvature at one checkpoint; Gram matrix and draw are shared through the memo."""
    memo, settings = context.memo, step.settings
    features_key = step.inputs["features"][0]
    if memo.features_key != features_key:
        memo.clear()
        memo.features_key = features_key
        memo.features = CheckpointFeatures.from_arrays(context.store.open(features_key).arrays())
    assert memo.features is not None
    later = [other for other in context.plan.steps if other.key in context.needed_later
             and other.inputs.get("features") == step.inputs["features"] and other.name == "spectrum"]  # fmt: skip
    wants_gram = any(other.settings["dim"] is None for other in later)
    if settings["dim"] is None:
        gram = _gram(memo)
        if not wants_gram:
            memo.gram = None
        if not any(other.settings["dim"] is not None for other in later):
            memo.projected = None
        spectrum = build_spectrum(settings["method"], memo.features, gram=gram)
    else:
        projected = nested(_projected(context, step, keep_gram=wants_gram), settings["dim"])
        spectrum = build_spectrum(settings["method"], memo.features, projected=projected)
    write_spectrum(writer, spectrum)
    if not later:
        memo.clear()


def _gram(memo: Memo) -> Tensor:
    if memo.gram is None:
        assert memo.features is not None
        memo.gram = memo.features.full_gram()
    return memo.gram


def _projected(context: RunContext, step: Step, keep_gram: bool) -> Tensor:
    """Return the features at k_max; a Gaussian draw takes the Gram matrix, the other kinds project gradients."""
    memo, settings = context.memo, step.settings
    if memo.projected is None:
        assert memo.features is not None
        if settings["kind"] == "gaussian":
            gram = _gram(memo)
            if not keep_gram:
                memo.gram = None
            memo.projected = gaussian_from_gram(gram, settings["max_dim"], settings["draw"], overwrite=not keep_gram)
        else:
            projection = Projection(settings["kind"], settings["max_dim"], settings["draw"])
            factors = memo.features.factors
            memo.projected = (
                project_model(context, step, settings["epoch"], projection)
                if factors is None
                else project_factors(factors, projection)
            )
    return memo.projected


def project_model(context: RunContext, step: Step, epoch: int, projection: Projection) -> Tensor:
    """Project the gradients of a model that has no factors, parameter block by parameter block."""
    requests = gradient_requests(context.task, *context.examples(step))
    return project_gradients(
        context.task, context.model(step, epoch),
        [(context.data[split], rows, quantity) for _, split, rows, quantity in requests],
        projection, device=context.device,
    )  # fmt: skip


def run_curvature(context: RunContext, step: Step, writer: ArtifactWriter) -> None:
    """Make dense coordinates by passes over the model: explicit curvature, Arnoldi or LoGra."""
    context.memo.clear()
    settings, parameters = step.settings, dict(step.settings["parameters"])
    model = context.model(step, settings["epoch"])
    common: dict[str, Any] = {"seed": settings["seed"], "device": context.device}
    arguments = (context.task, model, context.data, *context.examples(step))
    if settings["recipe"] == "logra":
        spectrum = logra_spectrum(*arguments, **parameters, **common)
    elif settings["recipe"] == "if-arnoldi":
        spectrum = arnoldi_spectrum(*arguments, **parameters, **common)
    else:
        dim = settings["dim"]
        projection = None if dim is None else Projection(settings["kind"], dim, settings["draw"])
        spectrum = explicit_spectrum(*arguments, **parameters, projection=projection, **common)
    write_spectrum(writer, spectrum)


def run_kronecker(context: RunContext, step: Step, writer: ArtifactWriter) -> None:
    """Fit Kronecker factors and rotate the gradients (EK-FAC, K-FAC, diagonal)."""
    context.memo.clear()
    settings = step.settings
    spectrum = ekfac_spectrum(
        context.task, context.model(step, settings["epoch"]), context.data, *context.examples(step),
        kind=settings["kind"], seed=settings["seed"], device=context.device, **settings["parameters"],
    )  # fmt: skip
    write_kronecker(writer, spectrum)
