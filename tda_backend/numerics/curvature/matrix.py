"""The curvature of the mean training loss as a matrix: p × p in float64, or k × k of projected gradients."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor

from tda_backend.blocks import spans
from tda_backend.errors import TaskError, UsageError, ran_out_of_memory
from tda_backend.models.precision import FULL
from tda_backend.models.probe import Group, Probe
from tda_backend.numerics.curvature.parameters import ParameterLayout, flat_gradients
from tda_backend.numerics.curvature.products.curvature_product import curvature_product
from tda_backend.numerics.curvature.pseudo_gradients import Curvature, PseudoGradients, pseudo_gradients
from tda_backend.numerics.features.dense import Request, project_gradients
from tda_backend.numerics.features.factors import linear_factors, untracked_parameters
from tda_backend.numerics.features.projection import Projection, project_factors
from tda_backend.numerics.features.streaming import Quantity, evaluation_mode, values_of

MAX_PARAMETERS = 10_000
"""p above which no p × p matrix is formed (800 MB of float64; its eigendecomposition takes minutes)."""

_ROWS = 1024
_COLUMNS = 256


def curvature_matrix(probe: Probe, curvature: Curvature) -> Tensor:
    """Return the curvature of the mean training loss, ``[p, p]`` float64, in the order of ``named_parameters``.

    Args:
        probe: Loss, train rows and a model of up to ``MAX_PARAMETERS`` parameters; a float64 copy of it is used.
        curvature: Which one.

    Raises:
        UsageError: The model is larger than the limit.
        TaskError: The task lacks what the kind needs, or cannot be evaluated in float64.
        NumericalError: A gradient is not finite.
    """
    return matrix_in_float64(probe_in_float64(probe), curvature)


def probe_in_float64(probe: Probe) -> Probe:
    """Return a copy of model and data in float64, whose rounding lies below what makes a Hessian indefinite.

    Its passes run on the device, or on the CPU beside one that has no float64.

    Raises:
        UsageError: The model is larger than ``MAX_PARAMETERS``, or the probe's precision is less than float32.
        TaskError: The task cannot be evaluated in float64.
    """
    if probe.precision != FULL:
        raise UsageError(
            f'The curvature of task {probe.task.name!r} is formed in float64, not in "{probe.precision}".',
            f'Use precision "{FULL}" for it, or give projection_dim with ggn, true-fisher or empirical-fisher.',
        )
    size = ParameterLayout.of(probe.model).num_parameters
    if size > MAX_PARAMETERS:
        raise UsageError(
            f"The model of task {probe.task.name!r} has {size} parameters; explicit curvature is formed up to "
            f"{MAX_PARAMETERS}.",
            "Give projection_dim with ggn, true-fisher or empirical-fisher, or use iffim or ekfac.",
        )
    wide = copy.deepcopy(probe.model).to(probe.home).double()
    data = {
        split: {key: value.double() if value.is_floating_point() else value for key, value in batch.items()}
        for split, batch in probe.data.items()
    }
    device = next(wide.parameters()).device
    first = {key: value[:1].to(device) for key, value in next(iter(data.values())).items()}
    try:
        with evaluation_mode(wide), torch.no_grad():
            values_of(probe.task, wide, first, "train_loss")
    except RuntimeError as error:
        if ran_out_of_memory(error):
            raise
        raise TaskError(
            f"The loss of task {probe.task.name!r} cannot be evaluated in float64 ({error}).",
            "Make tensors inside the task and the model in the dtype of their inputs.",
        ) from error
    return replace(probe, model=wide, data=data, device=probe.home)


def matrix_in_float64(probe: Probe, curvature: Curvature) -> Tensor:
    """Return :func:`curvature_matrix` of a probe that is in float64 already."""
    if curvature.kind == "hessian":
        return _from_products(probe)
    pseudo = pseudo_gradients(probe, curvature)
    if not untracked_parameters(probe.model):
        matrix = _from_factors(pseudo)
        if matrix is not None:
            return matrix
    size = ParameterLayout.of(probe.model).num_parameters
    matrix = torch.zeros(size, size, dtype=torch.float64, device=probe.home)
    for part in pseudo.parts:
        rows = part.rows("train")
        for some in spans(len(rows), _ROWS):
            gradients = flat_gradients(part.only("train", rows[some]), "train", "train_loss")
            matrix.addmm_(gradients.T, gradients, alpha=1 / pseudo.num_train)
    return matrix


def projected_matrix(probe: Probe, curvature: Curvature, projection: Projection, losses: Tensor) -> Tensor:
    """Return ``P C Pᵀ``, ``[k, k]`` float64, summed from projected pseudo-gradients; for models of any size.

    Args:
        probe: Task, model and train rows.
        curvature: C; not the Hessian, which is no mean of outer products.
        projection: P, of any kind with an explicit product.
        losses: ``[n, k]`` projected gradients of the training loss (:func:`projected_gradients`).

    Raises:
        UsageError: The Hessian, or a projection larger than the parameters.
        TaskError: The task lacks what the kind needs.
    """
    pseudo = pseudo_gradients(probe, curvature)
    known = curvature.kind == "empirical-fisher"
    matrix = losses.new_zeros(projection.max_dim, projection.max_dim, dtype=torch.float64)
    for part in pseudo.parts:
        values = losses if known else projected_gradients(part, "train", "train_loss", projection)
        for rows in spans(len(values), _ROWS):
            wide = values[rows].to(torch.float64)
            matrix.addmm_(wide.T, wide, alpha=1 / pseudo.num_train)
    return matrix


def projected_gradients(probe: Probe, group: Group, quantity: Quantity, projection: Projection) -> Tensor:
    """Return the projected gradients of a group, ``[N, k]``, through rank-one factors where the model has them."""
    if not untracked_parameters(probe.model):
        return project_factors(linear_factors(probe, group, quantity)[0], projection)
    return project_gradients(probe, [Request(group, quantity)], projection)


def _from_products(probe: Probe) -> Tensor:
    """Return the Hessian column by column, from products with unit vectors."""
    product = curvature_product(probe, Curvature("hessian"))
    size = product.num_parameters
    matrix = torch.empty(size, size, dtype=torch.float64, device=product.device)
    for columns in spans(size, _COLUMNS):
        units = matrix.new_zeros(columns.stop - columns.start, size)
        units[:, columns].fill_diagonal_(1.0)
        matrix[columns] = product(units)
    matrix += matrix.T.clone()
    return matrix.div_(2)


def _from_factors(pseudo: PseudoGradients) -> Tensor | None:
    """Return Σ_c Σ_i g_ic g_icᵀ/n through rank-one factors, or ``None`` where layers see several positions.

    The block of outputs o, o' is ``Σ_i (Σ_c δ_ico δ_ico') a_i a'_iᵀ``: n·p² operations, whatever the number of c.
    """
    num = pseudo.num_train
    parts = []
    for part in pseudo.parts:
        factors, _ = linear_factors(part, "train", "train_loss")
        if any(layer.inputs.ndim == 3 for layer in factors.layers):
            return None
        parts.append(factors.layers)
    layout = ParameterLayout.of(pseudo.parts[0].model)
    inputs = [layer.inputs for layer in parts[0]]
    deltas = [torch.stack([layers[index].deltas for layers in parts], 1) for index in range(len(inputs))]
    places = [
        _places(layout, layer.name, layer.inputs.shape[1], layer.deltas.shape[1]).to(layer.inputs.device)
        for layer in parts[0]
    ]
    matrix = inputs[0].new_zeros(layout.num_parameters, layout.num_parameters, dtype=torch.float64)
    for index, (a, delta) in enumerate(zip(inputs, deltas, strict=True)):
        for output in range(delta.shape[2]):
            # Only pairs at or after (layer, output); the others follow by symmetry.
            firsts = [output] + [0] * (len(inputs) - index - 1)
            columns = torch.cat([p[f:].flatten() for p, f in zip(places[index:], firsts, strict=True)])
            block = matrix.new_zeros(a.shape[1], len(columns))
            for rows in spans(num, _ROWS):
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
