"""Baselines that need no curvature: similarity of representations, gradients or inputs, chance, and downsampling.

========================  ==========================================================================  ===============
function                  score (positive helps)                                                      reference
========================  ==========================================================================  ===============
representation_similarity cos(h(z'), h(z_i)), h the last hidden activations                           arXiv 2405.12186
gradient_similarity       −φ'·∇ℓ(z_i) or its cosine, at one checkpoint                                arXiv 2002.08484
nearest_inputs            closeness of standardised inputs, optionally signed by class                arXiv 1811.09720
random_scores             N(0, 1), a pure function of (seed, query, train example)                    none
empirical_influence       mean goodness over subsets with z_i minus over subsets without              arXiv 2008.03703
========================  ==========================================================================  ===============

None of them has λ. Their scales differ; compare ranks, never magnitudes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from tda_backend.attribution.tracin import tracin_scores
from tda_backend.errors import NumericalError, TaskError, UsageError
from tda_backend.features.checkpoint_features import CheckpointFeatures
from tda_backend.features.streaming import batches, evaluation_mode, values_of
from tda_backend.seeds import hashed_rng
from tda_backend.spectral.contraction import ScoreMatrix
from tda_backend.types import Batch, Task

Similarity = Literal["dot", "cosine"]
Metric = Literal["euclidean", "cosine"]

_TRAIN_BLOCK = 1024
"""Train indices per hashed block of random scores. Part of what a seed means."""

_SHOWN = 8


def representation_similarity(
    task: Task,
    model: nn.Module,
    data: Mapping[str, Batch],
    train_indices: Sequence[int] | Tensor,
    query_indices: Sequence[int] | Tensor,
    *,
    layer: str | None = None,
    device: torch.device | str = "cpu",
    batch_size: int = 512,
) -> ScoreMatrix:
    """Return RepSim, the cosine of the last hidden activations (SOURCE, arXiv 2405.12186, §B.4): alike helps.

    The activations are the *inputs* of the Linear layer that is called last (or of ``layer``), in eval mode; several
    positions are averaged. Activations that are exactly zero have no direction and score 0 with everything.

    Args:
        task: Whose measurement calls the model.
        model: At the checkpoint.
        data: ``train`` and ``test`` splits.
        train_indices: Rows of the train split, n.
        query_indices: Rows of the test split, m.
        layer: Name of the module whose inputs are taken, for models whose head is not a Linear layer.
        device: Where the passes run.
        batch_size: Examples per pass.

    Returns:
        Values ``[m, n]`` in the model's dtype.

    Raises:
        TaskError: The model calls no Linear layer, or not the named one, or its input has no axis of examples.
        NumericalError: An activation is not finite, or all of them vanish.
    """
    arguments = (layer, device, batch_size)
    train = _hidden(task, model, data["train"], train_indices, *arguments)
    query = _hidden(task, model, data["test"], query_indices, *arguments)
    for group, rows in (("train", train), ("query", query)):
        if not bool((rows != 0).any()):
            raise NumericalError(
                f"The last hidden activations of all {group} examples are zero.",
                "The layer before them is dead: use an earlier checkpoint, or name another layer.",
            )
    return ScoreMatrix((_unit(query) @ _unit(train).T).to(next(model.parameters()).dtype))


def _hidden(
    task: Task,
    model: nn.Module,
    data: Batch,
    indices: Sequence[int] | Tensor,
    layer: str | None,
    device: torch.device | str,
    batch_size: int,
) -> Tensor:
    """Return the inputs of one layer, ``[N, d]`` float64 on the CPU."""
    model.to(device)
    modules = dict(model.named_modules())
    if layer is not None and layer not in modules:
        raise TaskError(f"The model has no module {layer!r}.", f"It has: {', '.join(n for n in modules if n)}.")
    watched = {layer: modules[layer]} if layer is not None else {
        name: module for name, module in modules.items() if isinstance(module, nn.Linear)
    }  # fmt: skip
    seen: list[Tensor] = []

    def record(_: nn.Module, arguments: tuple) -> None:
        seen[:] = [argument.detach() for argument in arguments[:1] if isinstance(argument, Tensor)]  # the last call

    hooks = [module.register_forward_pre_hook(record) for module in watched.values()]
    parts = []
    try:
        with evaluation_mode(model), torch.no_grad():
            for rows, batch in batches(data, indices, batch_size, device):
                seen.clear()
                values_of(task, model, batch, "goodness")
                parts.append(_rows_of(seen, rows.stop - rows.start, layer))
    finally:
        for hook in hooks:
            hook.remove()
    if not parts:
        raise TaskError("There are no examples to compare.", "Give at least one train and one query index.")
    result = torch.cat(parts)
    bad = ~torch.isfinite(result).all(1)
    if bool(bad.any()):
        raise NumericalError(
            f"The last hidden activations of {int(bad.sum())} of {len(bad)} examples are not finite "
            f"(first at index {int(torch.as_tensor(indices)[int(bad.nonzero()[0])])}).",
            "Look for NaN in the data, or for a training run that diverged.",
        )
    return result


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
    hidden = hidden.to("cpu", torch.float64)
    return hidden if hidden.ndim == 2 else hidden.flatten(1, -2).mean(1)


def gradient_similarity(
    features: CheckpointFeatures, similarity: Similarity = "dot", projected: Tensor | None = None
) -> ScoreMatrix:
    """Return ``−φ'·∇ℓ(z_i)`` or its cosine at one checkpoint: TracIn with one checkpoint and η = 1.

    Args:
        features: The checkpoint's gradients.
        similarity: ``dot``, or ``cosine`` (both gradients divided by their L2 norm; a zero gradient scores 0).
        projected: ``[N, k]`` projected features, or ``None`` for the exact products.

    Returns:
        Values ``[m, n]``.

    Raises:
        UsageError: Another similarity, or rows that do not fit the checkpoint.
    """
    if similarity not in ("dot", "cosine"):
        raise UsageError(f"Unknown similarity {similarity!r}.", "Allowed: dot, cosine.")
    return tracin_scores([features], [1.0], similarity == "cosine", None if projected is None else [projected])


def nearest_inputs(
    task: Task,
    data: Mapping[str, Batch],
    train_indices: Sequence[int] | Tensor,
    query_indices: Sequence[int] | Tensor,
    *,
    metric: Metric = "euclidean",
    signed: bool = False,
    standardize: bool = True,
    input_key: str | None = None,
) -> ScoreMatrix:
    """Return how close each train input is to each query's: no model at all.

    ``euclidean``: −‖x' − x_i‖, or signed ±exp(−‖x' − x_i‖²/2h²) with h² the mean squared distance (a distance has no
    zero to take a sign about; the kernel has). ``cosine``: cos(x', x_i), or signed ±cos.

    Sign: unsigned, close helps, whatever its label. Signed, an example of the query's own class helps and one of
    another class hurts, the more the closer: the representer value α_i·K(x_i, x') with the sign of α_i only
    (arXiv 1811.09720), and for ``cosine`` the gradient product of a linear model before training.

    Args:
        task: Names the label's key.
        data: ``train`` and ``test`` splits.
        train_indices: Rows of the train split, n.
        query_indices: Rows of the test split, m.
        metric: ``euclidean`` or ``cosine``.
        signed: Whether classes decide the sign.
        standardize: Subtract the mean and divide by the standard deviation of every input over the train rows
            (constant inputs are only centred).
        input_key: Key of the inputs in a batch; ``None`` for the task's own ``input_key``, or where only one entry is
            floating-point.

    Returns:
        Values ``[m, n]`` in the inputs' dtype.

    Raises:
        UsageError: Another metric; no such key, or several could be meant; inputs that are not floating-point;
            ``signed`` without integer labels.
        NumericalError: An input is not finite.
    """
    if metric not in ("euclidean", "cosine"):
        raise UsageError(f"Unknown metric {metric!r}.", "Allowed: euclidean, cosine.")
    key = _input_key(task, data["train"], input_key)
    rows = [torch.as_tensor(indices, dtype=torch.long) for indices in (train_indices, query_indices)]
    source = data["train"][key]
    train = source[rows[0]].flatten(1).to("cpu", torch.float64)
    query = data["test"][key][rows[1]].flatten(1).to("cpu", torch.float64)
    for group, values in (("train", train), ("query", query)):
        bad = ~torch.isfinite(values).all(1)
        if bool(bad.any()):
            raise NumericalError(
                f"{int(bad.sum())} {group} inputs are not finite (first at position {int(bad.nonzero()[0])}).",
                "Look for NaN in the data.",
            )
    if standardize:
        mean, deviation = train.mean(0), train.std(0, correction=0)
        # Rounding leaves a constant input with a deviation of ε·|mean|; dividing by it would make noise of it.
        spread = torch.where(deviation > 1e-12 * mean.abs(), deviation, torch.ones_like(deviation))
        train, query = (train - mean) / spread, (query - mean) / spread
    if metric == "cosine":
        scores = _unit(query) @ _unit(train).T
    else:
        # Through a matrix product a duplicate would be 1e-7 away from itself.
        distances = torch.cdist(query, train, compute_mode="donot_use_mm_for_euclid_dist")
        if signed:
            width = float(distances.square().mean())
            scores = torch.exp(-distances.square() / (2 * width)) if width > 0 else torch.ones_like(distances)
        else:
            scores = -distances
    if signed:
        labels = _labels(task, data, rows)
        scores = torch.where(labels[1][:, None] == labels[0], scores, -scores)
    return ScoreMatrix(scores.to(source.dtype))


def _input_key(task: Task, batch: Batch, input_key: str | None) -> str:
    if input_key is None:
        input_key = getattr(task, "input_key", None)
    floating = [key for key, value in batch.items() if value.is_floating_point() and key != task.label_key]
    if input_key is None and len(floating) != 1:
        raise UsageError(
            f"The inputs of task {task.name!r} are not clear: {len(floating)} entries are floating-point "
            f"({', '.join(floating) or 'tokens have no distance'}).",
            f"Give input_key, one of {', '.join(floating)}." if floating else "Use RepSim for such inputs.",
        )
    key = floating[0] if input_key is None else input_key
    if key not in batch or not batch[key].is_floating_point():
        raise UsageError(f"A batch has no floating-point entry {key!r}.", f"Allowed: {', '.join(floating) or 'none'}.")
    return key


def _labels(task: Task, data: Mapping[str, Batch], rows: list[Tensor]) -> list[Tensor]:
    labels = []
    for split, index in zip(("train", "test"), rows, strict=True):
        values = data[split].get(task.label_key)
        if values is None or values.is_floating_point() or values.ndim != 1:
            raise UsageError(
                f"Signed nearest inputs need one class per example; task {task.name!r} has none under "
                f"{task.label_key!r}.",
                "Use signed = false.",
            )
        labels.append(values[index].cpu())
    return labels


def random_scores(
    seed: int, train_indices: Sequence[int] | Tensor, query_indices: Sequence[int] | Tensor
) -> ScoreMatrix:
    """Return independent N(0, 1) scores: what a method that knows nothing gets. LDS of them is 0 on average.

    Each score is a pure function of (seed, query index, train index), so no choice of rows or batches changes it.

    Returns:
        Values ``[m, n]`` float32.
    """
    train = np.asarray(torch.as_tensor(train_indices), dtype=np.int64)
    queries = np.asarray(torch.as_tensor(query_indices), dtype=np.int64)
    values = np.empty((len(queries), len(train)), dtype=np.float32)
    blocks, within = np.divmod(train, _TRAIN_BLOCK)
    places = {int(block): np.nonzero(blocks == block)[0] for block in np.unique(blocks)}
    for row, query in enumerate(queries):
        for block, columns in places.items():
            draw = hashed_rng("random-scores", seed, int(query), block).standard_normal(_TRAIN_BLOCK, dtype=np.float32)
            values[row, columns] = draw[within[columns]]
    return ScoreMatrix(torch.from_numpy(values))


def empirical_influence(
    masks: Tensor | np.ndarray, outputs: Tensor | np.ndarray, evaluation_masks: Tensor | np.ndarray | None = None
) -> ScoreMatrix:
    """Return mean goodness over subsets with z_i minus mean goodness over subsets without (arXiv 2008.03703, §2).

    In units of goodness: the effect of *one* example on a model trained on such a subset. It is **not** multiplied by
    n as influence-type scores are; compare by rank.

    Args:
        masks: ``[S, n]`` bool, which examples each subset holds. Its own subsets: scored on the subsets that LDS
            correlates with, it would predict them from themselves.
        outputs: ``[S, m]`` goodness of each query under the model trained on each subset.
        evaluation_masks: ``[S', n]`` subsets of the evaluation; a subset in both is refused.

    Returns:
        Values ``[m, n]`` float64.

    Raises:
        UsageError: Shapes do not fit; an example is in all or in none of the subsets (naming it); a subset belongs to
            the evaluation.
        NumericalError: An output is not finite (naming the subset).
    """
    chosen = torch.as_tensor(masks).to("cpu")
    values = torch.as_tensor(outputs).to("cpu", torch.float64)
    if chosen.ndim != 2 or values.ndim != 2 or len(chosen) != len(values):
        raise UsageError(
            f"Masks {tuple(chosen.shape)} and outputs {tuple(values.shape)} do not fit.",
            "Masks are [S, n] bool, outputs [S, m].",
        )
    if chosen.dtype != torch.bool:
        raise UsageError(f"Masks have type {chosen.dtype}.", "Give bool: in the subset or not.")
    bad = ~torch.isfinite(values).all(1)
    if bool(bad.any()):
        raise NumericalError(
            f"Outputs of {int(bad.sum())} of {len(bad)} subsets are not finite (first: {int(bad.nonzero()[0])}).",
            "Retrain it, or leave the subset out.",
        )
    inside = chosen.sum(0)
    for count, where in ((0, "none"), (len(chosen), "all")):
        stuck = (inside == count).nonzero()[:, 0].tolist()
        if stuck:
            names = ", ".join(map(str, stuck[:_SHOWN])) + (f" and {len(stuck) - _SHOWN} more" * (len(stuck) > _SHOWN))
            raise UsageError(
                f"Training positions {names} are in {where} of the {len(chosen)} subsets.",
                "Each needs a subset with it and one without: train more subsets, or use α nearer 0.5.",
            )
    if evaluation_masks is not None:
        _refuse_shared(chosen, torch.as_tensor(evaluation_masks).to("cpu"))
    centred = values - values.mean(0)  # the difference of means does not change, its rounding does
    weights = chosen.to(torch.float64)
    with_it = centred.T @ weights
    without = centred.sum(0)[:, None] - with_it
    return ScoreMatrix(with_it / inside - without / (len(chosen) - inside))


def _refuse_shared(masks: Tensor, evaluation: Tensor) -> None:
    if evaluation.ndim != 2 or evaluation.shape[1] != masks.shape[1]:
        raise UsageError(
            f"Evaluation masks {tuple(evaluation.shape)} do not fit masks {tuple(masks.shape)}.", "Give [S', n] bool."
        )
    held = {row.tobytes() for row in np.packbits(evaluation.numpy().astype(bool), axis=1)}
    shared = [i for i, row in enumerate(np.packbits(masks.numpy(), axis=1)) if row.tobytes() in held]
    if shared:
        raise UsageError(
            f"{len(shared)} subsets (first: {shared[0]}) are also subsets of the evaluation.",
            "Empirical influence needs subsets of its own: LDS on the same ones measures nothing.",
        )


def _unit(rows: Tensor) -> Tensor:
    """Return rows divided by their L2 norm; a zero row stays zero."""
    norms = rows.norm(dim=1, keepdim=True)
    return rows / torch.where(norms > 0, norms, torch.ones_like(norms))
