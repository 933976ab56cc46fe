"""The margin identity ∇ℓ = −(1−p)·∇f with p = sigmoid(f), proved on every row by random signs.

A block of rows takes two backward passes: A = Σ r_i s_i ∇ℓ_i and B = Σ r_i s_i (1−p_i) ∇f_i, with r_i = ±1 drawn for
every row. Where the identity holds A + B is 0 up to rounding; where it fails, its rows cancel for no draw but chance.
The weights s_i = 1/max(1−p_i, δ) let every row count by the size of ∇f_i, a well fitted one too: a wrong loss must not
hide behind the rows with large losses. Autograd's softmax − onehot rounds by ε, here ε/δ of ∇f_i: so δ = √(16ε)
is also the tolerance: it halves the digits between what rounds and what is wrong.

Where loss and measurement are functions of one output of the model and of no parameter beside it, the identity is
looked at there first: gradients to that output are had row by row, from one forward pass. Where it holds, it holds for
the parameters, of which both gradients are the same linear function.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from tda_backend.models.checking.causes import why_identity_fails
from tda_backend.models.checking.gradients import norm, row_slopes, slopes, trainable
from tda_backend.models.checking.promises import FUNCTIONS, BrokenPromise, slope_tolerance
from tda_backend.models.heads import one_forward
from tda_backend.models.probe import in_float64
from tda_backend.models.tasks.data import num_rows
from tda_backend.types import Batch, Task

_SHOWN_ROWS = 32
"""Rows of a failing block that are looked at one by one, to say why."""
_DRAWS = 16
"""Draws of the signs, at most: equal rows may cancel in one, and then rounding is all that is left of both sums."""


def identity_error(task: Task, model: nn.Module, batch: Batch, signs: Tensor, delta: float) -> float:
    """Return by how much the identity fails on a block of rows, relative to the measurement's gradient.

    Args:
        task: With ``margin_identity``.
        model: In eval mode.
        batch: A block of b rows.
        signs: ±1 for each row, ``[b]``.
        delta: The least 1 − p that a row is weighed by.
    """
    difference, size = _difference(task, model, batch, signs, delta)
    return _share(difference, size)


def _share(difference: float, size: float) -> float:
    return difference / size if size else float("inf" if difference else 0.0)


def _difference(task: Task, model: nn.Module, batch: Batch, signs: Tensor, delta: float) -> tuple[float, float]:
    """Return the norm by which the two sums of a draw differ, and that of the measurement's."""
    parameters = trainable(model)
    values = task.measurement(model, batch)
    weight = torch.sigmoid(-in_float64(values))
    signs = signs.to(weight)
    scale = signs / weight.clamp_min(delta)
    right = slopes((values * (scale * weight).to(values)).sum(), parameters, keep=True)
    losses = task.train_loss(model, batch)
    left = slopes((losses * scale.to(losses)).sum(), parameters)
    difference, size = norm(left, right), norm(right)
    if difference > delta * size:
        # Well fitted rows count little in both sums, and what rounds there is measured against ∇f itself.
        size = max(size, norm(slopes((values * signs.to(values)).sum(), parameters)))
    return difference, size


def _error_at_outputs(task: Task, model: nn.Module, batch: Batch, delta: float) -> float | None:
    """Return by how much the identity fails between gradients to the model's output; ``None`` says nothing of it.

    Relative to the measurement's, both summed over rows as random signs do it on average.
    """
    with one_forward(model) as once:
        try:
            values, losses = task.measurement(model, batch), task.train_loss(model, batch)
        except Exception:  # the outputs are other than the model's own; the parameters decide
            return None
    rows, leaves, parameters = num_rows(batch), once.leaves, trainable(model)
    if once.has_others or once.answers != len(FUNCTIONS) or any(leaf.shape[:1] != (rows,) for leaf in leaves):
        return None
    weight = torch.sigmoid(-in_float64(values))
    scale = 1 / weight.clamp_min(delta)
    right = slopes((values * (scale * weight).to(values)).sum(), [*leaves, *parameters])
    left = slopes((losses * scale.to(losses)).sum(), [*leaves, *parameters])
    beside = (*right[len(leaves) :], *left[len(leaves) :])
    if not leaves or any(part is not None for part in beside):
        return None
    size = norm(right[: len(leaves)])
    difference = norm(left[: len(leaves)], right[: len(leaves)])
    return _share(difference, size) if size else None


def random_signs(rng: np.random.Generator, count: int) -> Tensor:
    """Return ±1 for each of some rows."""
    return torch.from_numpy(rng.choice((-1.0, 1.0), count))


def _shown(task: Task, batch: Batch) -> list[int]:
    """Return some rows of a block, of every label where there are labels."""
    rows, labels = torch.arange(num_rows(batch)), batch.get(task.label_key)
    if labels is not None and labels.ndim == 1:
        rows = labels.cpu().argsort(stable=True)
    return rows[torch.linspace(0, len(rows) - 1, min(_SHOWN_ROWS, len(rows))).long()].tolist()


def refuse_wrong_identity(
    task: Task, model: nn.Module, batch: Batch, rng: np.random.Generator, precision: torch.dtype
) -> float:
    """Return by how much the identity fails on a block of rows, as far as that is rounding.

    A gradient that is not finite gives no verdict: those who take the gradients name its row.

    Args:
        task: With ``margin_identity``.
        model: In eval mode.
        batch: A block of rows.
        rng: Draws the signs.
        precision: That loss and measurement are computed in.

    Raises:
        BrokenPromise: It is more; says which kind of loss or measurement does this.
    """
    tolerance = slope_tolerance(precision)
    found = _error_at_outputs(task, model, batch, tolerance)
    if found is not None and found <= tolerance:
        return found
    difference = size = error = 0.0
    for _ in range(_DRAWS):
        # The largest of each: where rows cancel, what is left is measured against a draw in which they do not.
        drawn = _difference(task, model, batch, random_signs(rng, num_rows(batch)), tolerance)
        difference, size = max(difference, drawn[0]), max(size, drawn[1])
        error = _share(difference, size)
        if not error > tolerance:
            return error
    rows = [row_slopes(task, model, batch, row) for row in _shown(task, batch)]
    raise BrokenPromise(
        f"margin_identity is claimed, but ∇train_loss and −(1−p)·∇measurement differ by {error:.2g} of the gradient: "
        f"{why_identity_fails(task, model, batch, rows)}.",
        "Set margin_identity = False: the loss's own gradients are taken then, and TRAK is left out. Or train by the "
        "plain cross-entropy and measure the margin logit_y − logsumexp(others).",
    )
