"""Influence functions with an explicit curvature: Hessian, Gauss–Newton, empirical or true Fisher of the mean loss.

score = −φ'ᵀ(C + λI)⁻¹∇ℓ_i with C formed and decomposed (METHODS §3; Taming, arXiv 2505.24261, §2.1). Without a
projection that is p × p in float64, for models of up to ``MAX_PARAMETERS`` parameters; the float64 copy of model and
data keeps rounding below what decides whether a Hessian is indefinite. With a projection the k × k matrix P C Pᵀ is
summed from projected pseudo-gradients, for models of any size.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import scipy.linalg
import torch
from torch import Tensor, nn

from tda_backend.errors import NumericalError, TaskError, UsageError
from tda_backend.features.dense import Request, project_gradients
from tda_backend.features.factors import linear_factors, untracked_parameters
from tda_backend.features.projection import Projection, project_factors
from tda_backend.features.streaming import Quantity, evaluation_mode, values_of
from tda_backend.solvers.indefinite import IndefinitePolicy, check_policy, signed_spectrum
from tda_backend.solvers.parameters import ParameterLayout, flat_gradients
from tda_backend.solvers.products import curvature_product
from tda_backend.solvers.pseudo_gradients import CurvatureKind, PseudoGradients, check_curvature, pseudo_gradients
from tda_backend.spectral.coordinates import Spectrum
from tda_backend.types import Batch, Task

MAX_PARAMETERS = 10_000
"""p above which no p × p matrix is formed (800 MB of float64; its eigendecomposition takes minutes)."""

_ROWS = 1024
_COLUMNS = 256


def explicit_spectrum(
    task: Task,
    model: nn.Module,
    data: Mapping[str, Batch],
    train_indices: Sequence[int] | Tensor,
    validation_indices: Sequence[int] | Tensor,
    query_indices: Sequence[int] | Tensor,
    *,
    curvature: CurvatureKind,
    indefinite: IndefinitePolicy = "refuse",
    projection: Projection | None = None,
    seed: int = 0,
    num_samples: int = 1,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    batch_size: int = 512,
) -> Spectrum:
    """Return spectral coordinates in the complete eigenbasis of an explicit curvature.

    λ = 0 is refused by the spectrum's filter where the curvature is singular.

    Args:
        task: Measurement, its sign, and loss; ``outputs`` and the like for ggn and true-fisher.
        model: At the checkpoint; used in eval mode.
        data: ``train`` and ``test`` splits.
        train_indices: Rows of the train split, n.
        validation_indices: Rows of the test split for ξ.
        query_indices: Rows of the test split to attribute.
        curvature: ``hessian``, ``ggn``, ``empirical-fisher`` or ``true-fisher``.
        indefinite: What to do with a Hessian's negative eigenvalues: ``refuse``, ``absolute`` or ``clip``.
        projection: Any kind with an explicit product; not for the Hessian.
        seed: For the labels of the true Fisher.
        num_samples: Labels drawn per example for the true Fisher.
        dtype: Storage type of the coordinates.
        device: Where the passes run.
        batch_size: Examples per pass; results do not depend on it.

    Raises:
        UsageError: Unknown curvature or policy; a model above the limit; a projection of the Hessian, or one larger
            than the parameters.
        TaskError: A group is empty, or the task lacks what the curvature needs.
        NumericalError: An indefinite Hessian with the policy ``refuse``, a curvature that is zero, or a gradient that
            is not finite.
    """
    check_curvature(curvature)
    check_policy(indefinite)
    groups = {"train": train_indices, "validation": validation_indices, "query": query_indices}
    for group, indices in groups.items():
        if len(torch.as_tensor(indices)) == 0:
            raise TaskError(f"There are no {group} examples.", "Give at least one index for each group.")
    settings = {"seed": seed, "num_samples": num_samples, "device": device, "batch_size": batch_size}
    what = f"{curvature} of task {task.name!r}"
    if projection is not None:
        if curvature == "hessian":
            raise UsageError(
                "The Hessian is not a mean of outer products and cannot be projected by its gradients.",
                "Use ggn, true-fisher or empirical-fisher with a projection, or no projection.",
            )
        matrix, rows = _projected(task, model, data, groups, curvature, projection, settings)
        what = f"{what}, projected to {projection.max_dim}"
    else:
        _refuse_large(task, model)
        model, data = _in_float64(task, model, data)
        matrix = _curvature(task, model, data["train"], train_indices, curvature, settings)
        rows = None
    size, num_train = len(matrix), len(torch.as_tensor(train_indices))
    values, basis = _eigenpairs(matrix, what)
    del matrix
    coordinates, squares = {}, torch.empty(0)
    for group, indices in groups.items():
        quantity: Quantity = "train_loss" if group == "train" else "goodness"
        parts, norms = [], []
        for start in range(0, len(torch.as_tensor(indices)), _ROWS):
            if rows is not None:
                part = rows[group][start : start + _ROWS].to(torch.float64)
            else:
                chunk = torch.as_tensor(indices)[start : start + _ROWS]
                split = data["train" if group == "train" else "test"]
                part = _gradients(task, model, split, chunk, quantity, group, device, batch_size)
            norms.append(part.square().sum(1))
            parts.append(part @ basis)
        coordinates[group] = torch.cat(parts)
        if group == "query":
            squares = torch.cat(norms)
    del basis
    return signed_spectrum(
        values,
        coordinates.pop("train").neg_(),
        coordinates["query"],
        coordinates["validation"],
        policy=indefinite,
        rounding=max(num_train, size) * torch.finfo(torch.float64).eps,
        query_squares=squares,
        dtype=dtype,
        what=what,
    )


def curvature_matrix(
    task: Task,
    model: nn.Module,
    data: Batch,
    indices: Sequence[int] | Tensor,
    kind: CurvatureKind,
    *,
    seed: int = 0,
    num_samples: int = 1,
    device: torch.device | str = "cpu",
    batch_size: int = 512,
) -> Tensor:
    """Return the curvature of the mean training loss, ``[p, p]`` float64, in the order of ``named_parameters``.

    Args:
        task: Loss; for ggn and true-fisher also its outputs.
        model: Up to ``MAX_PARAMETERS`` parameters; a float64 copy of it is used.
        data: The train split.
        indices: Rows of it, n.
        kind: Which curvature.
        seed: For the labels of the true Fisher.
        num_samples: Labels drawn per example for the true Fisher.
        device: Where the passes run.
        batch_size: Examples per pass.

    Raises:
        UsageError: The model is larger than the limit, or the kind is unknown.
        TaskError: The task lacks what the kind needs, or cannot be evaluated in float64.
        NumericalError: A gradient is not finite.
    """
    check_curvature(kind)
    _refuse_large(task, model)
    wide, converted = _in_float64(task, model, {"train": data})
    settings = {"seed": seed, "num_samples": num_samples, "device": device, "batch_size": batch_size}
    return _curvature(task, wide, converted["train"], indices, kind, settings)


def _refuse_large(task: Task, model: nn.Module) -> None:
    size = ParameterLayout.of(model).num_parameters
    if size > MAX_PARAMETERS:
        raise UsageError(
            f"The model of task {task.name!r} has {size} parameters; explicit curvature is formed up to "
            f"{MAX_PARAMETERS}.",
            "Give projection_dim with ggn, true-fisher or empirical-fisher, or use iffim or ekfac.",
        )


def _in_float64(
    task: Task, model: nn.Module, data: Mapping[str, Batch]
) -> tuple[nn.Module, dict[str, dict[str, Tensor]]]:
    wide = copy.deepcopy(model).double()
    converted = {
        split: {key: value.double() if value.is_floating_point() else value for key, value in batch.items()}
        for split, batch in data.items()
    }
    device = next(wide.parameters()).device
    first = {key: value[:1].to(device) for key, value in next(iter(converted.values())).items()}
    try:
        with evaluation_mode(wide), torch.no_grad():
            values_of(task, wide, first, "train_loss")
    except RuntimeError as error:
        raise TaskError(
            f"The loss of task {task.name!r} cannot be evaluated in float64 ({error}).",
            "Make tensors inside the task and the model in the dtype of their inputs.",
        ) from error
    return wide, converted


def _curvature(
    task: Task,
    model: nn.Module,
    data: Batch,
    indices: Sequence[int] | Tensor,
    kind: CurvatureKind,
    settings: dict,
) -> Tensor:
    if kind == "hessian":
        return _from_products(task, model, data, indices, settings)
    pseudo = pseudo_gradients(task, model, data, indices, kind, **settings)
    passes = {"device": settings["device"], "batch_size": settings["batch_size"]}
    if not untracked_parameters(model):
        matrix = _from_factors(pseudo, model, passes)
        if matrix is not None:
            return matrix
    size = ParameterLayout.of(model).num_parameters
    matrix = torch.zeros(size, size, dtype=torch.float64)
    for part in pseudo.parts:
        for start in range(0, pseudo.num_train, _ROWS):
            chunk = range(start, min(start + _ROWS, pseudo.num_train))
            rows = flat_gradients(pseudo.task, model, part, chunk, "train_loss", **passes)
            matrix.addmm_(rows.T, rows, alpha=1 / pseudo.num_train)
    return matrix


def _from_products(
    task: Task, model: nn.Module, data: Batch, indices: Sequence[int] | Tensor, settings: dict
) -> Tensor:
    """Return the Hessian column by column, from products with unit vectors."""
    product = curvature_product(task, model, data, indices, "hessian", **settings)
    size = product.num_parameters
    matrix = torch.empty(size, size, dtype=torch.float64)
    for start in range(0, size, _COLUMNS):
        units = torch.zeros(min(_COLUMNS, size - start), size, dtype=torch.float64)
        units[:, start : start + len(units)].fill_diagonal_(1.0)
        matrix[start : start + len(units)] = product(units).cpu()
    matrix += matrix.T.clone()
    return matrix.div_(2)


def _from_factors(pseudo: PseudoGradients, model: nn.Module, passes: dict) -> Tensor | None:
    """Return Σ_c Σ_i g_ic g_icᵀ/n through rank-one factors, or ``None`` where layers see several positions.

    The block of outputs o, o' is ``Σ_i (Σ_c δ_ico δ_ico') a_i a'_iᵀ``: n·p² operations, whatever the number of c.
    """
    num = pseudo.num_train
    parts = []
    for part in pseudo.parts:
        factors, _ = linear_factors(pseudo.task, model, part, range(num), "train_loss", passes["batch_size"],
                                    passes["device"])  # fmt: skip
        if any(layer.inputs.ndim == 3 for layer in factors.layers):
            return None
        parts.append(factors.layers)
    layout = ParameterLayout.of(model)
    inputs = [layer.inputs for layer in parts[0]]
    deltas = [torch.stack([layers[index].deltas for layers in parts], 1) for index in range(len(inputs))]
    places = [_places(layout, layer.name, layer.inputs.shape[1], layer.deltas.shape[1]) for layer in parts[0]]
    matrix = torch.zeros(layout.num_parameters, layout.num_parameters, dtype=torch.float64)
    for index, (a, delta) in enumerate(zip(inputs, deltas, strict=True)):
        for output in range(delta.shape[2]):
            # Only pairs at or after (layer, output); the others follow by symmetry.
            firsts = [output] + [0] * (len(inputs) - index - 1)
            columns = torch.cat([p[f:].flatten() for p, f in zip(places[index:], firsts, strict=True)])
            block = torch.zeros(a.shape[1], len(columns), dtype=torch.float64)
            for start in range(0, num, _ROWS):
                rows = slice(start, start + _ROWS)
                slabs = []
                for other, second, first in zip(inputs[index:], deltas[index:], firsts, strict=True):
                    weights = torch.einsum("bc,bco->bo", delta[rows, :, output], second[rows, :, first:])
                    slabs.append((weights[:, :, None] * other[rows, None, :]).flatten(1))
                block.addmm_(a[rows].T, torch.cat(slabs, 1), alpha=1 / num)
            target = places[index][output]
            matrix[target[:, None], columns] = block
            matrix[columns[:, None], target] = block.T
    return matrix


def _places(layout: ParameterLayout, layer: str, width: int, num_outputs: int) -> Tensor:
    """Return the entry of each (output, input) of a Linear layer in the flat parameters, the bias as last input."""
    weight, bias = layout.layer_spans(layer)
    inner = width - (bias is not None)
    places = torch.arange(weight.start, weight.stop).view(num_outputs, inner)
    return places if bias is None else torch.cat([places, torch.arange(bias.start, bias.stop)[:, None]], 1)


def _projected(
    task: Task,
    model: nn.Module,
    data: Mapping[str, Batch],
    groups: Mapping[str, Sequence[int] | Tensor],
    kind: CurvatureKind,
    projection: Projection,
    settings: dict,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return P C Pᵀ ``[k, k]`` float64 and the projected gradients of each group."""
    device, batch_size = settings["device"], settings["batch_size"]
    plain = not untracked_parameters(model)

    def project(owner: Task, request: Request) -> Tensor:
        if plain:
            return project_factors(linear_factors(owner, model, *request, batch_size, device)[0], projection)
        return project_gradients(owner, model, [request], projection, device=device)

    rows = {}
    for group, indices in groups.items():
        split: tuple[str, Quantity] = ("train", "train_loss") if group == "train" else ("test", "goodness")
        try:
            rows[group] = project(task, (data[split[0]], indices, split[1]))
        except NumericalError as error:
            raise NumericalError(f"In the {group} examples: {error.message}", error.hint) from error
    pseudo = pseudo_gradients(task, model, data["train"], groups["train"], kind, **settings)
    matrix = torch.zeros(projection.max_dim, projection.max_dim, dtype=torch.float64)
    for request in pseudo.requests():
        values = rows["train"] if kind == "empirical-fisher" else project(pseudo.task, request)
        for start in range(0, len(values), _ROWS):
            part = values[start : start + _ROWS].to(torch.float64)
            matrix.addmm_(part.T, part, alpha=1 / pseudo.num_train)
    return matrix, rows


def _gradients(
    task: Task,
    model: nn.Module,
    split: Batch,
    indices: Tensor,
    quantity: Quantity,
    group: str,
    device: torch.device | str,
    batch_size: int,
) -> Tensor:
    try:
        return flat_gradients(task, model, split, indices, quantity, device=device, batch_size=batch_size)
    except NumericalError as error:
        raise NumericalError(f"In the {group} examples: {error.message}", error.hint) from error


def _eigenpairs(matrix: Tensor, what: str) -> tuple[Tensor, Tensor]:
    """Return all eigenpairs of a symmetric matrix, ascending, **destroying the matrix**."""
    if not bool(torch.isfinite(matrix).all()):
        raise NumericalError(f"The {what} has entries that are not finite.", "Look for NaN or overflow in the data.")
    try:
        # The transpose of a symmetric C-ordered matrix is itself in Fortran order: LAPACK then works in place.
        values, vectors = scipy.linalg.eigh(matrix.numpy().T, driver="evd", overwrite_a=True, check_finite=False)
    except np.linalg.LinAlgError as error:
        raise NumericalError(
            f"The eigendecomposition of the {what} did not converge ({error}).", "Use a projection, or iffim."
        ) from error
    return torch.from_numpy(values), torch.from_numpy(vectors)
