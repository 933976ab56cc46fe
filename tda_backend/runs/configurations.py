"""From a resolved study to its configurations: one for every combination of what its methods sweep, but never λ."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tda_backend.methods import METHODS, Hyperparameter, MethodSpec
from tda_backend.methods.spec import NONE
from tda_backend.store.artifacts import content_key

PREVIEW_DIM = 512


def configurations(study: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the study's configurations in the order of the method table, with ``configuration_id`` and label."""
    rows = [row for name, settings in study["methods"].items() for row in _of_method(METHODS[name], settings, study)]
    for row in rows:
        row["configuration_id"] = content_key(
            method=row["method"], epoch=row["training_epoch"], dim=row["projection_dim"], parameters=row["parameters"],
            projection=study["projection"] if row["projection_dim"] else None, seeds=row["num_seeds"],
        )[:12]  # fmt: skip
    return rows


def _of_method(spec: MethodSpec, settings: Mapping[str, Any], study: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    num_seeds = study["training"]["seeds"]
    last = study["training"]["epochs"][-1]
    epochs: list[int] = list(settings.get("epochs", [last]))
    sums: dict[int, list[int]] = {}
    if spec.name == "tracin":  # one configuration sums over epochs
        for end in settings.get("maximum_epochs") or epochs[-1:]:
            sums[end] = [epoch for epoch in epochs if epoch <= end][-settings["num_checkpoints"] :]
        epochs = list(sums)
    fixed = {h.name: settings[h.name] for h in spec.hyperparameters if not h.sweep and h.kind != "epochs"}
    combinations: Any = itertools.product(
        epochs,
        itertools.product(*(settings[item.name] for item in spec.swept)),
        settings.get("projection_dim", [NONE]),
    )
    for epoch, values, dim in combinations:
        unprojected = settings.get("unprojected_epochs")
        if dim == NONE and unprojected is not None and epoch not in unprojected:
            continue
        parameters = {**fixed, **{item.name: value for item, value in zip(spec.swept, values, strict=True)}}
        if spec.name == "tracin":
            parameters = {"normalization": parameters["normalization"], "epochs": sums[epoch]}
        if spec.name == "trak" and not parameters["half_subset_models"]:
            parameters = {}
        if parameters.get("curvature") == "empirical-fisher":
            parameters.pop("indefinite", None)
        if dim != NONE:
            parameters["projection"] = projection_kind(spec, parameters, study["projection"]["kind"])
        num_sources = parameters.get("half_subset_models") or num_seeds
        title = f"TRAK-{num_sources}" if spec.name == "trak" and num_sources > 1 else spec.title
        title += " (half subsets)" if parameters.get("half_subset_models") else ""
        yield {
            "method": spec.name, "title": title, "training_epoch": epoch,
            "projection_dim": None if dim == NONE else dim,
            "parameters": parameters, "label": _label(spec, title, epoch, dim, parameters, settings),
            "has_regularization": spec.has_regularization, "num_seeds": num_seeds, "num_sources": num_sources,
        }  # fmt: skip


def projection_kind(spec: MethodSpec, parameters: Mapping[str, Any], kind: str) -> str:
    """Return how a configuration projects: what is not drawn from a Gram matrix takes the structured projection."""
    from_gram = spec.recipe != "curvature" and parameters.get("curvature", "empirical-fisher") == "empirical-fisher"
    return kind if from_gram or kind != "gaussian" else "sparse"


def _label(
    spec: MethodSpec, title: str, epoch: int, dim: Any, parameters: Mapping[str, Any], settings: Mapping[str, Any]
) -> str:
    parts = [title]
    if spec.name == "tracin":
        parts.append("normalised" if parameters["normalization"] else "plain")
        parts += [] if dim == NONE else [f"k={dim}"]
        return " · ".join([*parts, f"{len(parameters['epochs'])} checkpoints to epoch {epoch}"])
    if spec.hyperparameter("projection_dim") is not None:
        parts.append("unprojected" if dim == NONE else f"k={dim}")
    for item in spec.swept:
        if item.name in parameters and item.name != "half_subset_models":
            several = len(settings[item.name]) > 1
            if several or item.name == "damping" or parameters[item.name] != item.default[0]:
                parts.append(setting_text(item, parameters[item.name]))
    if spec.hyperparameter("epochs") is not None:
        parts.append(f"epoch {epoch}")
    return " · ".join(parts)


def setting_text(item: Hyperparameter, value: Any) -> str:
    """Return one hyper-parameter's value as a label has it."""
    name = item.name.replace("_", " ")
    if item.kind == "flag":
        return name if value else f"no {name}"
    if item.kind != "choice":
        return f"{name} {value:g}"
    return {"fisher": f"{value} Fisher", "damping": f"{value} damping"}.get(item.name, str(value))


def order(row: Mapping[str, Any], first: Mapping[str, Any] | None) -> tuple:
    """Return the sort key of computing: checkpoint by checkpoint (its Gram serves all of it), that of ``first`` first.

    The largest λ-sweep first would delay the others: small k first, unprojected last; score matrices after all.
    """
    spec = METHODS[row["method"]]
    earlier = first is not None and row["training_epoch"] == first["training_epoch"]
    dim = row["projection_dim"]
    recipe = ("spectrum", "kronecker", "curvature", "scores").index(spec.recipe)
    return (recipe, not earlier, row["training_epoch"], dim is None, dim or 0, row["method"])


def preview(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the configuration that is evaluated first: a cheap projection at a middle-to-late checkpoint."""
    spectral = [
        row for row in rows
        if row["method"] in ("iffim", "trak") and not row["parameters"].get("half_subset_models")
    ]  # fmt: skip
    if not spectral:
        return None
    epochs = sorted({row["training_epoch"] for row in spectral})
    middle = epochs[min(len(epochs) - 1, (len(epochs) + 1) // 2)]
    at_middle = [row for row in spectral if row["training_epoch"] == middle]
    return min(
        at_middle, key=lambda row: (row["method"] != "iffim", abs((row["projection_dim"] or 10**6) - PREVIEW_DIM))
    )
