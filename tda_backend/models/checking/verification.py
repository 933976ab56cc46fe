"""What every run verifies of its task, on all rows that it uses: before anything is trained, and at each checkpoint.

Methods take gradients of many rows in one backward pass, and those of the loss from those of the measurement. That is
right only where examples do not interact, where nothing is left to chance, and where the margin identity holds.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from tda_backend.models.checking import values
from tda_backend.models.checking.identity import refuse_wrong_identity
from tda_backend.models.checking.promises import ROWS, BrokenPromise, precision_of, same_bits
from tda_backend.models.probe import Probe
from tda_backend.models.tasks.contract import blamed, built
from tda_backend.models.tasks.data import as_batch, loaded, take, validate_data
from tda_backend.models.training.run import reproducible
from tda_backend.seeds import hashed_rng, hashed_seed
from tda_backend.types import Task, to_device

_BLOCK_BYTES, _MOST_ROWS = 2**29, 512
"""What a backward pass may keep of a block of rows on which the margin identity is proved, and bounds on its rows."""
SEEDS = (11, 12)
"""Seeds that models are built from to compare them."""


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
        obeys_seed(probe.task)
        fit_for_passes(probe.model)
        _small(probe)
        for split, rows in _used(probe).items():
            values.anywhere(probe.task, probe.model, to_device(probe.data[split], probe.device), rows)
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
    data = to_device(take(probe.data["train"], probe.rows("train")[: 2 * ROWS]), probe.device)
    batch = take(data, slice(0, ROWS))
    values.shapes(task, model, batch)
    values.determinism(task, model, batch)
    values.per_example(task, model, data)


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
    for rows in probe.rows("train").split(_block_rows(probe)):
        batch = to_device(take(probe.data["train"], rows), probe.device)
        precision = precision or precision_of(task, model, take(batch, slice(0, ROWS))).dtype
        worst = max(worst, refuse_wrong_identity(task, model, batch, rng, precision))
    return worst


def _block_rows(probe: Probe) -> int:
    """Return how many rows of the train split go through a backward pass together, by what it keeps of one row."""
    one = to_device(take(probe.data["train"], probe.rows("train")[:1]), probe.device)
    known = {value.untyped_storage().data_ptr() for value in (*probe.model.parameters(), *one.values())}
    kept: dict[int, int] = {}

    def note(saved: Tensor) -> Tensor:
        if (place := saved.untyped_storage().data_ptr()) not in known:
            kept[place] = saved.untyped_storage().nbytes()
        return saved

    with torch.enable_grad(), saved_tensors_hooks(note, lambda saved: saved):
        probe.task.measurement(probe.model, one)
    return min(_MOST_ROWS, max(1, _BLOCK_BYTES // max(1, sum(kept.values()))))


@contextlib.contextmanager
def _other_chance(seed: int) -> Iterator[None]:
    """Put all global random states where they would not be by themselves: what draws from them shows."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(hashed_seed("chance", seed))
        random.seed(hashed_seed("chance", seed))
        np.random.seed(hashed_seed("chance", seed) % 2**32)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


def same_data(task: Task) -> None:
    """Raise a BrokenPromise unless ``datasets()``, called again, gives the same numbers."""
    known = validate_data(task)
    with _other_chance(1):
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


def obeys_seed(task: Task) -> None:
    """Raise a BrokenPromise unless ``build_model`` gives the same bits for the same seed."""
    first, again = (_state(task, SEEDS[0], chance) for chance in (1, 2))
    odd = [name for name, value in first.items() if name not in again or not same_bits(value, again[name])]
    if odd:
        raise BrokenPromise(
            f"build_model({SEEDS[0]}) twice gives different parameters ({', '.join(odd[:3])}).",
            "Call torch.manual_seed(seed) first, draw from nothing else, and fill what torch.empty makes: torch.zeros.",
        )
    if task.pretrained:
        other = _state(task, SEEDS[1], 1)
        if any(not same_bits(value, other[name]) for name, value in first.items()):
            raise BrokenPromise(
                f"build_model({SEEDS[0]}) and build_model({SEEDS[1]}) differ, though pretrained = True.",
                "Set pretrained = False, or load all weights.",
            )


def _state(task: Task, seed: int, chance: int) -> dict[str, Tensor]:
    with _other_chance(chance):
        state = built(task, seed).state_dict()
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def fit_for_passes(model: nn.Module) -> None:
    """Raise a BrokenPromise for models whose gradients cannot be taken example by example."""
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            where = f'module "{name}" of build_model' if name else "build_model"
            raise BrokenPromise(
                f"{where} is scripted (torch.jit): gradients of single examples cannot be taken.",
                "Return the nn.Module itself, without torch.jit.script or trace: the numbers are the same.",
            )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise BrokenPromise("The model has no trainable parameters.", "Nothing can be attributed without gradients.")
