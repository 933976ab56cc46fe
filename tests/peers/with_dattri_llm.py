"""What dattri-llm 0.1.0 says: AdamW-influence and DVEmb of a run that it watched. Imports dattri-llm when called.

It watches our trainer through its public interface for loops of one's own: hooks that keep every example's gradient,
and a callback that reads the optimizer's moments before and after each update.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tda_backend.models.training.routes.loop import LoopTrainer
from tda_backend.models.training.run import TrainingRun
from tda_backend.types import Batch, TrainingSettings
from tests.peers.trajectories import NUM_TRAIN, TRAINING_SEED, PooledPerceptron

_DYNAMICS = "dynamics.pt"


def trajectory_goldens(settings: TrainingSettings) -> dict[str, np.ndarray]:
    """Return one run and dattri-llm's scores of it.

    ``start``, ``end``: θ in float64, in the order of ``named_parameters``. ``rows``, ``sizes``, ``rates``: the steps.
    Scores are ``[occurrences, m]`` as dattri-llm gives them, one row for each example in each batch, in the order of
    ``rows``. ``adamw-influence`` where Adam trained; ``double``: the same with every float32 in its code made a
    float64. ``dvemb``: the unrolling of SGD, whatever trained.
    """
    task = PooledPerceptron(settings)
    data = task.datasets()  # before float32 means float64
    found: dict[str, np.ndarray] = {}
    adam = settings.optimizer != "sgd"
    with tempfile.TemporaryDirectory() as folder:
        found |= _watch(task, data, Path(folder))
        found["dvemb"] = _scores("DVEmb", Path(folder), learning_rate=dict(enumerate(found["rates"].tolist())))
        if adam:
            found["adamw-influence"] = _scores("AdamWInfluence", Path(folder), dynamics=Path(folder) / _DYNAMICS)
    if adam:
        with _in_double(), tempfile.TemporaryDirectory() as folder:
            _watch(task, data, Path(folder))
            found["double"] = _scores("AdamWInfluence", Path(folder), dynamics=Path(folder) / _DYNAMICS)
    return found


def selection_goldens(
    settings: TrainingSettings, share: float, dtype: torch.dtype = torch.float64
) -> dict[str, np.ndarray]:
    """Return a run in which dattri-llm drops the lowest ``share`` of every batch before the optimizer's step.

    Its score is the product of an example's gradient with that of the mean loss of all queries, at θ before the step.
    What stays is averaged over its own number (``renormalize``). ``scores`` ``[occurrences]`` in the order of ``rows``,
    ``dropped`` likewise, ``end`` θ after the last step.
    """
    from dattri_llm import REGISTER_ALL, DataSelectionCallback, HookManager, HookManagerConfig

    task = PooledPerceptron(settings)
    model = task.build_model(TRAINING_SEED).to(dtype)
    data = {split: {"x": part["x"].to(dtype), "y": part["y"]} for split, part in task.datasets().items()}
    trainer = LoopTrainer(TrainingRun(task, data, np.arange(NUM_TRAIN), TRAINING_SEED), model, settings)
    chooser = DataSelectionCallback(
        model,
        "val_loader",
        val_loader=[data["test"]],
        val_loss_fn=_mean_loss,
        renormalize=True,
        selection_kwargs={"threshold": share, "threshold_mode": "bottom_fraction"},
    )
    hooks = HookManager(model, config=HookManagerConfig(linear_io=REGISTER_ALL), callbacks=[chooser])
    sizes: list[int] = []
    scores: list[Tensor] = []
    dropped: list[Tensor] = []

    def look(*_: Any) -> None:
        if sizes:
            scores.append(chooser.last_scores)
            dropped.append(
                torch.zeros(sizes[-1], dtype=torch.bool).index_fill(0, torch.tensor(chooser.last_dropped), True)
            )

    def before_step(_: Any, batch: Tensor, rate: float) -> None:
        look()
        sizes.append(len(batch))

    trainer.on_step = before_step
    with hooks.collect():
        for epoch in range(1, settings.num_epochs + 1):
            trainer.train_epoch(epoch)
        look()
    hooks.remove()
    return {"scores": torch.cat(scores).numpy(), "dropped": torch.cat(dropped).numpy(), "end": _flat(model)}


def _mean_loss(model: nn.Module, batch: Batch) -> Tensor:
    return cross_entropy(model(batch["x"]), batch["y"])


def _watch(task: PooledPerceptron, data: Mapping[str, Batch], folder: Path) -> dict[str, Any]:
    """Train once under dattri-llm's hooks; leave its stores of gradients in ``folder``."""
    from dattri_llm import (
        REGISTER_ALL,
        GradientStorageManager,
        HookManager,
        HookManagerConfig,
        OffloadCallback,
        OptimizerStateCallback,
    )

    model, settings = task.build_model(TRAINING_SEED), task.training
    trainer = LoopTrainer(TrainingRun(task, data, np.arange(NUM_TRAIN), TRAINING_SEED), model, settings)
    config = HookManagerConfig(linear_io=REGISTER_ALL)
    store = GradientStorageManager(str(folder / "train"))
    moments = OptimizerStateCallback(model, trainer.optimizer) if settings.optimizer != "sgd" else None
    hooks = HookManager(model, config=config, callbacks=[OffloadCallback(1, store), *([moments] if moments else [])])
    rows: list[Tensor] = []
    rates: list[float] = []

    def before_step(_: Any, batch: Tensor, rate: float) -> None:
        if moments is not None and rows:
            moments.record_post(len(rows) - 1)
        rows.append(batch.clone())
        rates.append(rate)

    trainer.on_step = before_step
    start = _flat(model)
    with hooks.collect():
        for epoch in range(1, settings.num_epochs + 1):
            trainer.train_epoch(epoch)
        if moments is not None:
            moments.record_post(len(rows) - 1)
    hooks.remove()
    end = _flat(model)
    queries = GradientStorageManager(str(folder / "test"))
    hooks = HookManager(model, config=config, callbacks=[OffloadCallback(1, queries)])
    with hooks.collect():
        # The sum: dattri-llm keeps each example's share of the loss that is differentiated.
        cross_entropy(model(data["test"]["x"]), data["test"]["y"], reduction="sum").backward()
    hooks.remove()
    if moments is not None:
        torch.save(dict(moments.dynamics()), folder / _DYNAMICS)
    return {
        "start": start,
        "end": end,
        "rows": torch.cat(rows).numpy().astype(np.uint8),
        "sizes": np.array([len(batch) for batch in rows]),
        "rates": np.array(rates),
    }


def _scores(method: str, folder: Path, **settings: Any) -> np.ndarray:
    """Return scores of occurrences, ordered as the run saw them: dattri-llm goes from the last step to the first."""
    import dattri_llm

    arguments = dattri_llm.AttributionArguments(output_dir=str(folder / method), use_cpu=True)
    attributor = getattr(dattri_llm, f"{method}Attributor")(arguments)
    score = attributor.attribute_from_cache(
        str(folder / "train"),
        str(folder / "test"),
        propagation="test",
        block_dtype=torch.get_default_dtype(),
        **settings,
    )
    order = np.argsort(np.array(score.row_steps), kind="stable")
    return score.scores.numpy()[order]


def _flat(model: nn.Module) -> np.ndarray:
    return torch.cat([p.detach().flatten() for p in model.parameters()]).numpy().copy()


@contextlib.contextmanager
def _in_double() -> Iterator[None]:
    """Turn dattri-llm's conversions to float32 into conversions to float64: what is left is its formula."""
    from dattri_llm.attribution.algorithm import dvemb, trajectory
    from dattri_llm.gradient import ops
    from dattri_llm.gradient.callbacks import optimizer_state_callback

    def copied(values: Tensor) -> Tensor:
        return values.detach().to("cpu", torch.float64, copy=True)

    def dense(block: Any, _: torch.dtype = torch.float64) -> Any:
        return block.map_layers(lambda _, value, kind: ops.materialize(value, kind).double())

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with (
            mock.patch.object(Tensor, "float", Tensor.double),
            mock.patch.object(optimizer_state_callback, "_cpu_copy", copied),
            mock.patch.object(trajectory, "_dense_float", dense),
            mock.patch.object(dvemb, "_dense_float", dense),
        ):
            yield
    finally:
        torch.set_default_dtype(before)
