"""RepSim: similarity of the model's last hidden activations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from tda_backend.errors import NumericalError, TaskError
from tda_backend.models.probe import Group, Probe, in_float64
from tda_backend.numerics.features.streaming import evaluation_mode, over_batches, values_of
from tda_backend.numerics.spectral.contraction import ScoreMatrix
from tda_backend.types import Batch


def representation_similarity(probe: Probe, *, layer: str | None = None) -> ScoreMatrix:
    """Return RepSim, the cosine of the last hidden activations (SOURCE, arXiv 2405.12186, §B.4): alike helps.

    The activations are the *inputs* of the Linear layer that is called last (or of ``layer``), in eval mode; several
    positions are averaged. Activations that are exactly zero have no direction and score 0 with everything.

    Args:
        probe: Its task's measurement calls the model; train and query rows.
        layer: Name of the module whose inputs are taken, for models whose head is not a Linear layer.

    Returns:
        Values ``[m, n]`` in the model's dtype.

    Raises:
        TaskError: The model calls no Linear layer, or not the named one, or its input has no axis of examples.
        NumericalError: An activation is not finite, or all of them vanish.
    """
    train, query = _hidden(probe, "train", layer), _hidden(probe, "query", layer)
    for group, rows in (("train", train), ("query", query)):
        if not bool((rows != 0).any()):
            raise NumericalError(
                f"The last hidden activations of all {group} examples are zero.",
                "The layer before them is dead: use an earlier checkpoint, or name another layer.",
            )
    return ScoreMatrix((unit_rows(query) @ unit_rows(train).T).to(next(probe.model.parameters()).dtype))


def unit_rows(rows: Tensor) -> Tensor:
    """Return rows divided by their L2 norm; a zero row stays zero."""
    norms = rows.norm(dim=1, keepdim=True)
    return rows / torch.where(norms > 0, norms, torch.ones_like(norms))


def _hidden(probe: Probe, group: Group, layer: str | None) -> Tensor:
    """Return the inputs of one layer, ``[N, d]`` float64."""
    with _watched(probe.model, layer) as seen, evaluation_mode(probe.model), torch.no_grad():

        def activations(rows: slice, batch: Batch) -> Tensor:
            seen.clear()
            values_of(probe.task, probe.model, batch, "goodness")
            return _rows_of(seen, rows.stop - rows.start, layer)

        parts = [found for _, found in over_batches(probe, group, activations)]
    if not parts:
        raise TaskError("There are no examples to compare.", "Give at least one train and one query index.")
    result = torch.cat(parts)
    bad = ~torch.isfinite(result).all(1)
    if bool(bad.any()):
        raise NumericalError(
            f"The last hidden activations of {int(bad.sum())} of {len(bad)} examples are not finite "
            f"(first at index {int(probe.rows(group)[int(bad.nonzero()[0])])}).",
            "Look for NaN in the data, or for a training run that diverged.",
        )
    return result


@contextmanager
def _watched(model: nn.Module, layer: str | None) -> Iterator[list[Tensor]]:
    """Yield a list that holds the input of the last call of a Linear layer, or of the named module."""
    modules = dict(model.named_modules())
    if layer is None:
        watched = [module for module in modules.values() if isinstance(module, nn.Linear)]
    elif layer in modules:
        watched = [modules[layer]]
    else:
        raise TaskError(f"The model has no module {layer!r}.", f"It has: {', '.join(n for n in modules if n)}.")
    seen: list[Tensor] = []

    def record(_: nn.Module, arguments: tuple) -> None:
        seen[:] = [argument.detach() for argument in arguments[:1] if isinstance(argument, Tensor)]  # the last call

    hooks = [module.register_forward_pre_hook(record) for module in watched]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _rows_of(seen: list[Tensor], size: int, layer: str | None) -> Tensor:
    if not seen:
        called = "calls no nn.Linear layer" if layer is None else f"does not call {layer!r} with a tensor"
        raise TaskError(
            f"The model {called}, so it has no last hidden activations.",
            "Name the module whose inputs are the representation (layer = …).",
        )
    hidden = seen[0]
    if hidden.ndim < 2 or hidden.shape[0] != size:
        raise TaskError(
            f"The representation has shape {tuple(hidden.shape)} for a batch of {size} examples.",
            "Its first axis must enumerate examples; name another layer.",
        )
    hidden = in_float64(hidden)
    return hidden if hidden.ndim == 2 else hidden.flatten(1, -2).mean(1)
