"""What ``build_model`` promises: a new model at every call, decided by the seed, and whole in its ``state_dict``."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tda_backend.models.checking.promises import FUNCTIONS, BrokenPromise, precision_of, same_bits
from tda_backend.models.tasks.contract import built, one_line
from tda_backend.seeds import hashed_seed
from tda_backend.types import Batch, Task

SEEDS = (11, 12)
"""Seeds that models are built from to compare them."""


@contextlib.contextmanager
def other_chance(seed: int) -> Iterator[None]:
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


@dataclass(frozen=True)
class Built:
    """Some models of a task.

    Attributes:
        models: Of the first of :data:`SEEDS`, twice, and of the other.
        detail: How many parameters they have, and what the seed decides of them.
    """

    models: Sequence[nn.Module]
    detail: str


def built_right(task: Task) -> Built:
    """Return models of a task.

    Raises:
        BrokenPromise: A model cannot be differentiated example by example, shares with another one what is trained, or
            does not depend on the seed alone.
    """
    models = [_built(task, seed, chance) for seed, chance in ((SEEDS[0], 1), (SEEDS[0], 2), (SEEDS[1], 1))]
    _fit_for_passes(models[0])
    _separate(models)
    first, again, other = (_state(model) for model in models)
    _obeys_seed(first, again)
    return Built(models, _what_seed_decides(task, models[0], first, other))


def _what_seed_decides(task: Task, model: nn.Module, first: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> str:
    count = sum(parameter.numel() for parameter in model.parameters())
    is_same = all(name in other and same_bits(value, other[name]) for name, value in first.items())
    if task.pretrained and not is_same:
        raise BrokenPromise(
            f"build_model({SEEDS[0]}) and build_model({SEEDS[1]}) differ, though pretrained = True.",
            "Set pretrained = False, or load all weights.",
        )
    if task.pretrained:
        return f"{count:,} parameters; every seed starts from the same pre-trained weights."
    if all(bool((p == p.flatten()[0]).all()) for p in model.parameters() if p.numel()):
        return f"{count:,} parameters, all of them constant at first; the seed decides the order of the examples."
    if is_same and not task.checkpoint_files:
        raise BrokenPromise(
            f"build_model({SEEDS[0]}) and build_model({SEEDS[1]}) are equal.",
            "Initialise the parameters from the seed, or set pretrained = True if they start from given weights.",
        )
    return f"{count:,} parameters; the seed decides them."


def _built(task: Task, seed: int, chance: int) -> nn.Module:
    with other_chance(chance):
        return built(task, seed)


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def _fit_for_passes(model: nn.Module) -> None:
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


def _separate(models: Sequence[nn.Module]) -> None:
    """Raise a BrokenPromise where two models share what training changes; frozen weights may be shared."""
    seen: dict[int, int] = {}
    for number, model in enumerate(models):
        for name, parameter in model.named_parameters():
            place = parameter.untyped_storage().data_ptr()
            if not parameter.requires_grad or not parameter.numel():
                continue
            if seen.setdefault(place, number) != number:
                raise BrokenPromise(
                    f"build_model returns parameters that it has returned before ({name}): a model that is trained "
                    "would change all others.",
                    "Build a new model at every call, e.g. return copy.deepcopy(kept).",
                )


def _obeys_seed(first: Mapping[str, Tensor], again: Mapping[str, Tensor]) -> None:
    """Raise a BrokenPromise unless ``build_model`` gives the same bits for the same seed."""
    odd = [name for name, value in first.items() if name not in again or not same_bits(value, again[name])]
    if odd:
        raise BrokenPromise(
            f"build_model({SEEDS[0]}) twice gives different parameters ({', '.join(odd[:3])}).",
            "Call torch.manual_seed(seed) first, draw from nothing else, and fill what torch.empty makes: torch.zeros.",
        )


@torch.no_grad()
def whole_in_its_state(task: Task, models: Sequence[nn.Module], batch: Batch) -> str:
    """A model of another seed that is given a model's state computes the same: only the state is trained and stored.

    Args:
        task: Whose loss and measurement are compared.
        models: Of the first of :data:`SEEDS`, and last of the other.
        batch: A few rows.

    Raises:
        BrokenPromise: It does not; names what is not in the state.
    """
    device = next(iter(batch.values())).device
    model, other = models[0].to(device).eval(), models[-1].to(device).eval()
    try:
        other.load_state_dict(model.state_dict())
    except (RuntimeError, KeyError) as error:
        raise BrokenPromise(
            f"A model of seed {SEEDS[1]} does not take the state_dict of one of seed {SEEDS[0]} ({one_line(error)}).",
            "Names and shapes of parameters must not depend on the seed.",
        ) from error
    for name in FUNCTIONS:
        function = getattr(task, name)
        if precision_of(task, model, batch, (name,)).agree(function(other, batch), function(model, batch)):
            continue
        unregistered = _unregistered(model)
        what = f": {', '.join(unregistered[:3])}" if unregistered else ""
        raise BrokenPromise(
            f"{name} of a model of seed {SEEDS[1]} differs from that of one of seed {SEEDS[0]} whose state_dict it was "
            f"given: something that the seed decides is not in state_dict(){what}. It would be neither trained nor "
            "stored.",
            "Keep modules in nn.ModuleList or nn.ModuleDict, and fixed tensors by register_buffer.",
        )
    return f"A model of seed {SEEDS[1]} computes the same once it has the state_dict of one of seed {SEEDS[0]}."


def _unregistered(model: nn.Module) -> list[str]:
    """Return the attributes of modules that hold modules or tensors without being parts of the model."""
    known = {id(each) for each in (*model.modules(), *model.parameters(), *model.buffers())}
    own = set(vars(nn.Module()))
    return [
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        for name, value in vars(module).items()
        if name not in own and any(id(each) not in known for each in _held(value))
    ]


def _held(value: Any) -> list[Any]:
    """Return the modules and tensors that an attribute holds, in lists and dicts too."""
    if isinstance(value, Mapping):
        return [each for item in value.values() for each in _held(item)]
    if isinstance(value, list | tuple):
        return [each for item in value for each in _held(item)]
    return [value] if isinstance(value, nn.Module | Tensor) else []
