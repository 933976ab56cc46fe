"""What every run verifies of its task, on all rows that it uses: before anything is trained, and at each checkpoint.

Methods take gradients of many rows in one backward pass, and those of the loss from those of the measurement. That is
right only where examples do not interact, where nothing is left to chance, and where the margin identity holds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from tda_backend.blocks import spans
from tda_backend.models.checking import independence, values
from tda_backend.models.checking.building import built_right, other_chance, whole_in_its_state
from tda_backend.models.checking.goodness import opposes_loss
from tda_backend.models.checking.identity import refuse_wrong_identity
from tda_backend.models.checking.promises import ROWS, BrokenPromise, precision_of
from tda_backend.models.measuring.living import kept_bytes
from tda_backend.models.probe import Probe
from tda_backend.models.tasks.contract import blamed
from tda_backend.models.tasks.data import as_batch, loaded, take, validate_data
from tda_backend.models.training.run import reproducible
from tda_backend.seeds import hashed_rng
from tda_backend.types import Batch, Task, to_device

_BLOCK_BYTES, _MOST_ROWS = 2**29, 512
"""What a backward pass may keep of a block of rows on which the margin identity is proved, and bounds on its rows."""


def verify_before_training(probe: Probe) -> None:
    """Verify what methods rest on, with the model as :meth:`Task.build_model` returns it.

    Costs three forward passes over the rows where loss and measurement ask the model for the same, else four, and two
    passes forward and backward.

    Args:
        probe: Task, untrained model, data, and all rows that take part.

    Raises:
        TaskError: The task breaks its contract: one line, and what to do.
    """
    with _refusing(probe):
        same_data(probe.task)
        models = built_right(probe.task).models
        _small(probe)
        whole_in_its_state(probe.task, models, _few(probe, ROWS))
        opposes_loss(probe.task, probe.model, _few(probe, ROWS))
        for split, rows in _used(probe).items():
            independence.anywhere(probe.task, probe.model, to_device(probe.data[split], probe.device), rows)
        identity_everywhere(probe)


def verify_checkpoint(probe: Probe) -> None:
    """Verify it at a trained model: the margin identity on every row, the rest on a few.

    Costs a forward pass over the rows, where loss and measurement ask the model for the same; two passes forward and
    backward elsewhere.

    Args:
        probe: Task, model at the checkpoint, data, and all rows that take part.

    Raises:
        TaskError: The task breaks its contract: one line, and what to do.
    """
    with _refusing(probe):
        _small(probe)
        identity_everywhere(probe)


@contextlib.contextmanager
def _refusing(probe: Probe) -> Iterator[None]:
    task, modes = probe.task, [(module, module.training) for module in probe.model.modules()]
    probe.model.to(probe.device).eval()
    cuda = [torch.device(probe.device)] if torch.device(probe.device).type == "cuda" else []
    try:
        with (
            reproducible(probe.device),
            torch.random.fork_rng(devices=cuda),
            blamed(task, "train_loss or measurement"),
        ):
            try:
                yield
            except BrokenPromise as failure:
                raise failure.refusal(task) from failure.__cause__
    finally:
        for module, mode in modes:
            module.training = mode


def _used(probe: Probe) -> dict[str, Tensor]:
    """Return the rows that take part of each split."""
    test = torch.cat([probe.rows("validation"), probe.rows("query")]).unique()
    return {split: rows for split, rows in (("train", probe.rows("train")), ("test", test)) if len(rows)}


def _small(probe: Probe) -> None:
    """Check shapes, chance and independence on a few rows."""
    task, model = probe.task, probe.model
    data = _few(probe, 2 * ROWS)
    batch = take(data, slice(0, ROWS))
    values.shapes(task, model, batch, probe.rows("train")[:ROWS].tolist())
    independence.determinism(task, model, batch)
    independence.per_example(task, model, data)


def _few(probe: Probe, rows: int) -> Batch:
    """Return the first rows of the train split that take part, on the probe's device."""
    return to_device(take(probe.data["train"], probe.rows("train")[:rows]), probe.device)


def identity_everywhere(probe: Probe) -> float | None:
    """Return by how much the margin identity fails at worst over all train rows, which is rounding.

    ``None``: the task does not claim it.

    Raises:
        BrokenPromise: It fails on a block of rows.
    """
    task, model = probe.task, probe.model
    if not task.margin_identity:
        return None
    if task.measurement_sign != 1:
        raise BrokenPromise(
            f"margin_identity is claimed with measurement_sign {task.measurement_sign}.",
            "The identity holds for the classification margin, which is better when larger: use +1.",
        )
    rng, worst = hashed_rng("margin-identity", task.name), 0.0
    precision: torch.dtype | None = None
    rows = probe.rows("train")
    for block in spans(len(rows), _block_rows(probe)):
        batch = to_device(take(probe.data["train"], rows[block]), probe.device)
        precision = precision or precision_of(task, model, take(batch, slice(0, ROWS))).dtype
        worst = max(worst, refuse_wrong_identity(task, model, batch, rng, precision))
    return worst


def _block_rows(probe: Probe) -> int:
    """Return how many rows of the train split go through a backward pass together, by what it keeps of one row."""
    one = to_device(take(probe.data["train"], probe.rows("train")[:1]), probe.device)
    known = [*probe.model.parameters(), *one.values()]
    return rows_proved_together(kept_bytes(lambda: probe.task.measurement(probe.model, one), known))


def rows_proved_together(kept_of_one: float) -> int:
    """Return on how many rows the margin identity is proved at once, by the bytes that a backward pass keeps of one."""
    return min(_MOST_ROWS, max(1, int(_BLOCK_BYTES // max(1.0, kept_of_one))))


def same_data(task: Task) -> None:
    """Raise a BrokenPromise unless ``datasets()``, called again, gives the same numbers."""
    known = validate_data(task)
    with other_chance(1):
        again = loaded(task)
    for split, batch in known.items():
        other = as_batch(again[split])
        for key, value in batch.items():
            if key not in other or not torch.equal(value, other[key]):
                rows = "" if key not in other else _differing(value, other[key])
                raise BrokenPromise(
                    f'datasets() called twice gives other "{key}" of split "{split}"{rows}.',
                    "Draw and shuffle with a generator of a fixed seed: every process loads the data again.",
                )


def _differing(one: Tensor, other: Tensor) -> str:
    if one.shape != other.shape:
        return f" (shape {tuple(one.shape)}, then {tuple(other.shape)})"
    rows = (one != other).reshape(len(one), -1).any(1)
    return f" ({int(rows.sum())} of {len(one)} rows)"
