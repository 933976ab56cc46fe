"""Why the margin identity fails: which loss or measurement has such gradients and values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from tda_backend.models.checking.gradients import RowSlopes
from tda_backend.models.probe import in_float64
from tda_backend.models.tasks.base import margin
from tda_backend.types import Batch, Task

_SAME = 1e-2
"""Relative difference of factors that are called the same; also of gradients that are called parallel."""
_SHOWN_CLASSES = 5


def why_identity_fails(task: Task, model: nn.Module, batch: Batch, rows: Sequence[RowSlopes]) -> str:
    """Return which loss or measurement has gradients that lie to each other as those of ``rows`` do."""
    known = [row for row in rows if np.isfinite(row.factor)]
    odd = _odd_functions(task, model, batch)
    if not known or max(row.rest for row in known) > _SAME:
        return odd or "the two gradients are not parallel (label smoothing, a penalty, or another measurement)"
    factors = np.array([row.factor for row in known])
    if np.allclose(factors * [row.weight for row in known], 1, rtol=_SAME):
        return "∇measurement is −∇train_loss (a log-probability or the loss itself is measured, not the margin)"
    if np.ptp(factors) <= _SAME * np.abs(factors).max():
        return _why_one_factor(task, model, batch, float(factors.mean()))
    labels = batch.get(task.label_key)
    if labels is not None and labels.ndim == 1:
        found = labels[[row.row for row in known]].cpu().numpy()
        by_label = {label: factors[found == label] for label in np.unique(found).tolist()}
        if all(np.ptp(each) <= _SAME * np.abs(each).max() for each in by_label.values()):
            return f"the loss weighs classes ({_weights_text({k: float(v.mean()) for k, v in by_label.items()})})"
    return (
        f"the loss weighs examples (factors {factors.min():.2g} to {factors.max():.2g}, as a focal loss, weights of "
        "examples or a softmax before the cross-entropy give)"
    )


@torch.no_grad()
def _why_one_factor(task: Task, model: nn.Module, batch: Batch, factor: float) -> str:
    """Return why all gradients are ``factor`` times those of the cross-entropy, by the values that go with them."""
    losses = in_float64(task.train_loss(model, batch))
    plain = functional.softplus(-in_float64(task.measurement(model, batch)))
    if abs(factor - 1) <= _SAME:
        beside = losses - plain
        if float(beside.std()) <= _SAME * float(beside.abs().mean()):
            return (
                f"train_loss is the cross-entropy plus {float(beside.mean()):.3g} for every example, as a penalty on "
                "the parameters is (weight decay belongs in training.weight_decay)"
            )
        return "train_loss is nearly the cross-entropy, with something beside it (label smoothing, a penalty)"
    if torch.allclose(losses, factor * plain, rtol=_SAME):
        return f"train_loss is {factor:.3g} times the cross-entropy"
    smoothing = f", as with label smoothing of {1 - factor:.2g}" if 0 < factor < 1 else ""
    return f"the gradients are {factor:.3g} times those of the cross-entropy, the values are not{smoothing}"


def _weights_text(weights: Mapping[int, float]) -> str:
    """Return the weights of classes as text: those that few classes have, and that of the others."""
    texts = {label: f"{weight:.3g}" for label, weight in weights.items()}
    counted = Counter(texts.values())
    common, count = counted.most_common(1)[0]
    odd = [label for label, text in texts.items() if text != common] if count > 1 else list(texts)
    odd.sort(key=lambda label: counted[texts[label]])
    shown = [f"{texts[label]} for class {label}" for label in odd[:_SHOWN_CLASSES]]
    more = [f"{len(odd) - _SHOWN_CLASSES} more"] if len(odd) > _SHOWN_CLASSES else []
    others = [f"{common} for {'others' if odd else 'all'}"] if count > 1 else []
    return ", ".join([*shown, *more, *others])


@torch.no_grad()
def _odd_functions(task: Task, model: nn.Module, batch: Batch) -> str:
    """Return which of loss and measurement is not that of the logits that the task names as outputs."""
    labels = batch.get(task.label_key)
    if type(task).outputs is Task.outputs or task.num_classes is None or labels is None:
        return ""
    logits = in_float64(task.outputs(model, batch))
    if logits.ndim != 2 or labels.shape != (len(logits),):
        return ""
    labels = labels.to(logits.device).long()
    expected = {
        "train_loss is not the cross-entropy of outputs (label smoothing, a penalty or another loss?)": (
            task.train_loss(model, batch),
            functional.cross_entropy(logits, labels, reduction="none"),
        ),
        "measurement is not the margin of outputs": (task.measurement(model, batch), margin(logits, labels)),
    }
    odd = [name for name, (one, other) in expected.items() if not torch.allclose(in_float64(one), other, rtol=_SAME)]
    return " and ".join(odd)
