"""What dattri 0.3.0 says: TRAK, TracIn, LoGra, influence functions. Imports dattri when called."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tda_backend.models.tasks import margin

Rows = tuple[Tensor, Tensor]


def loader(rows: Rows, batch_size: int) -> DataLoader:
    """Return batches in order."""
    return DataLoader(TensorDataset(*rows), batch_size=batch_size, shuffle=False)


def attribution_task(
    model: nn.Module, states: Sequence[Mapping[str, Tensor]], target: str = "loss", train: str = "loss"
) -> Any:
    """Return dattri's task: mean cross-entropy for training, the margin or the loss as target.

    dattri's ``loss_func`` serves both one unbatched example (under ``vmap``) and a whole batch.
    """
    from dattri.task import AttributionTask

    def outputs(parameters: Any, inputs: Tensor) -> Tensor:
        # TRAK and TracIn map over unbatched examples; the other attributors keep a batch axis.
        return torch.func.functional_call(model, parameters, inputs if inputs.dim() > 1 else inputs[None])

    def loss(parameters: Any, batch: Any) -> Tensor:
        inputs, labels = batch
        return F.cross_entropy(outputs(parameters, inputs), labels.reshape(-1))

    def goodness(parameters: Any, batch: Any) -> Tensor:
        inputs, labels = batch
        return margin(outputs(parameters, inputs), labels.reshape(-1)).mean()

    kinds = {"loss": loss, "margin": goodness}
    return AttributionTask(
        loss_func=kinds[train], model=model, checkpoints=[dict(s) for s in states], target_func=kinds[target]
    )


def projector_settings(dim: int, seed: int = 0) -> dict[str, Any]:
    """Return every key: dattri updates one module-wide default in place, so a missing key keeps an earlier call's."""
    return {"proj_dim": dim, "proj_max_batch_size": 32, "proj_seed": seed, "proj_type": "normal", "device": "cpu"}


def trak(
    model: nn.Module,
    states: Sequence[Mapping[str, Tensor]],
    train: Rows,
    queries: Rows,
    dim: int,
    regularization: float,
    batch_size: int = 100,
) -> np.ndarray:
    """Return TRAK scores ``[n, m]``; features are Pg/√(kp), λ is added to XᵀX."""
    from dattri.algorithm.trak import TRAKAttributor

    task = attribution_task(model, states, target="margin", train="margin")

    def probability(parameters: Any, batch: Any) -> Tensor:
        inputs, labels = batch
        logits = torch.func.functional_call(model, parameters, inputs[None])
        return torch.exp(-F.cross_entropy(logits, labels[None]))

    attributor = TRAKAttributor(
        task, probability, projector_kwargs=projector_settings(dim), regularization=regularization
    )
    with torch.no_grad():
        attributor.cache(loader(train, batch_size))
        return attributor.attribute(loader(queries, batch_size)).numpy()


def trak_features(gradients: Tensor, dim: int, seed: int = 0) -> Tensor:
    """Return dattri's projection of rows, ``[N, k]``: gP/√k; TRAK divides by √p besides."""
    from dattri.func.projection import random_project

    settings = projector_settings(dim, seed)
    return random_project(gradients, len(gradients), **settings)(gradients, ensemble_id=0)


def tracin(
    model: nn.Module,
    states: Sequence[Mapping[str, Tensor]],
    rates: Sequence[float],
    train: Rows,
    queries: Rows,
    normalized: bool = False,
    dim: int | None = None,
    batch_size: int = 100,
    target: str = "loss",
) -> np.ndarray:
    """Return TracIn scores ``[n, m]``, target·loss.

    Passing ``projector_kwargs=None`` still projects to 512, so ``None`` is set on the attributor afterwards.
    """
    from dattri.algorithm.tracin import TracInAttributor

    attributor = TracInAttributor(
        attribution_task(model, states, target),
        torch.tensor(list(rates)),
        normalized,
        projector_kwargs=None if dim is None else projector_settings(dim),
    )
    if dim is None:
        attributor.projector_kwargs = None
    with torch.no_grad():
        return attributor.attribute(loader(train, batch_size), loader(queries, batch_size)).numpy()


def influence(
    kind: str,
    model: nn.Module,
    state: Mapping[str, Tensor],
    train: Rows,
    queries: Rows,
    solve_batch: int,
    target: str = "loss",
    **settings: Any,
) -> np.ndarray:
    """Return scores ``[n, m]``, target·loss, of dattri's ``IFAttributor<kind>``.

    dattri solves for every batch of the cached loader and sums the solutions: with ``solve_batch`` below n that is
    Σ_b (H_b+λ)⁻¹v, not (H+λ)⁻¹v.
    """
    import dattri.algorithm.influence_function as functions

    attributor = getattr(functions, f"IFAttributor{kind}")(attribution_task(model, [state], target), **settings)
    attributor.cache(loader(train, solve_batch))
    return attributor.attribute(loader(train, len(train[1])), loader(queries, len(queries[1]))).detach().numpy()


def ekfac(
    model: nn.Module, state: Mapping[str, Tensor], train: Rows, queries: Rows, damping: float, batch_size: int = 200
) -> np.ndarray:
    """Return dattri's EK-FAC scores ``[n, m]``, loss·loss, empirical Fisher."""
    import dattri.algorithm.influence_function as functions

    model.load_state_dict(dict(state))
    attributor = functions.IFAttributorEKFAC(attribution_task(model, [state]), damping=damping)
    attributor.cache(loader(train, batch_size))
    return attributor.attribute(loader(train, batch_size), loader(queries, batch_size)).detach().numpy()


class _Flattened(nn.Module):
    """Takes ``[b, 1, d]``."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, inputs: Tensor) -> Tensor:
        return self.inner(inputs.flatten(1))


def logra(
    model: nn.Module,
    state: Mapping[str, Tensor],
    train: Rows,
    queries: Rows,
    rank: int,
    damping: float | None,
    batch_size: int = 50,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return LoGra scores ``[n, m]``, loss·loss, and its projections ``<layer>/out`` ``[out, r]``, ``<layer>/in``.

    The projections include dattri's 1/√r; the last row of ``in`` belongs to the bias. Damping is relative:
    λ_ℓ = damping·tr(C_ℓ)/dim, and ``None`` means 1e-5. dattri sets its projections up on ``batch[0]`` without a batch
    axis and fails on flat inputs (IndexError), so each example gets an axis of length one that the model flattens; the
    query's gradient is that of a cross-entropy written into dattri, whatever the task's target.
    """
    from dattri.algorithm.logra import LoGraAttributor
    from dattri.task import AttributionTask

    def loss(network: nn.Module, batch: Any, device: str) -> Tensor:
        inputs, labels = batch
        return F.cross_entropy(network(inputs.to(device)), labels.to(device))

    train, queries = (train[0][:, None], train[1]), (queries[0][:, None], queries[1])
    model.load_state_dict(dict(state))
    network = _Flattened(model)
    task = AttributionTask(loss_func=loss, model=network, checkpoints=[network.state_dict()])
    # Without a folder of its own dattri writes batch_metadata.json where the program runs, and reads it there later.
    with tempfile.TemporaryDirectory() as folder:
        attributor = LoGraAttributor(task, proj_dim=rank * rank, damping=damping, cache_dir=folder)
        attributor.cache(loader(train, batch_size))
        scores = attributor.attribute(loader(train, batch_size), loader(queries, batch_size))
    projections = {}
    for compressor in attributor.compressors or []:
        name = compressor.name.removeprefix("inner.")
        layer: Any = model.get_submodule(name)
        sizes = (layer.out_features, layer.in_features + (layer.bias is not None))
        for side, size, project in zip(("out", "in"), sizes, compressor.sparsifier.sparsifier_comp, strict=True):
            dtype = next(model.parameters()).dtype
            projections[f"{name}/{side}"] = project(torch.eye(size, dtype=dtype), ensemble_id=0).numpy()
    return scores.detach().numpy(), projections
