"""HyDRA's fast version: every step's products summed, curvature left out, by replaying the training run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from tda_backend.errors import DataError, UsageError
from tda_backend.features.dense import dense_gradient_blocks
from tda_backend.features.factors import GradientFactors, LayerFactors, linear_factors, untracked_parameters
from tda_backend.features.gram import inner_products
from tda_backend.features.streaming import Quantity
from tda_backend.spectral.contraction import ScoreMatrix
from tda_backend.training.fit import Route, check_route, model_from, reproducible, row_numbers, single_trainer, train
from tda_backend.training.schedule import StepHook, training_settings
from tda_backend.types import Batch, Task

_QUERY_NUMBERS = 2**27
"""Numbers (512 MiB of float32) of dense query gradients held at once; more queries take further replays."""


def hydra_scores(
    task: Task,
    data: Mapping[str, Batch],
    train_indices: Sequence[int] | np.ndarray | Tensor,
    query_indices: Sequence[int] | Tensor,
    seed: int,
    *,
    last_epoch: int | None = None,
    final_state: Mapping[str, Tensor] | None = None,
    route: Route = "auto",
    device: torch.device | str = "cpu",
    batch_size: int = 512,
    query_numbers: int = _QUERY_NUMBERS,
    on_progress: Callable[[int, int], None] | None = None,
) -> ScoreMatrix:
    """Return HyDRA-fast's scores, exact over all steps: n × −φ'(θ_T)ᵀ Σ_t (η_t/B_t)·1{z ∈ B_t}·∇ℓ(z; θ_t).

    HyDRA (Chen et al., 2021) with the Hessian dropped, as SOURCE (arXiv 2405.12186, §E.1) compares with it; B_t is the
    batch's own size, so the last partial batch counts as in training. Gradients are taken in eval mode at θ_t, before
    step t. The formula is that of plain SGD: with momentum β all scores would be 1/(1 − β) times larger, up to the
    last few steps; ranks do not change, so the plain formula is kept.

    Nothing but the final state needs to have been kept: training is replayed, and its outcome compared with the final
    state bit by bit.

    Args:
        task: Task with training settings.
        data: ``train`` and ``test`` splits.
        train_indices: Rows of the train split that were trained on, n, in the order of training.
        query_indices: Rows of the test split, m.
        seed: Training seed of the run.
        last_epoch: Where the run ends (``None``: the last epoch of the settings).
        final_state: Its stored final state; without it the run is trained once more.
        route: Training route of the run; another route gives other bits.
        device: Where to train and differentiate.
        batch_size: Queries per pass.
        query_numbers: Numbers of dense query gradients held at once (models that are not all Linear).
        on_progress: Called after every epoch with (done, total).

    Returns:
        Values ``[m, n]`` in the model's dtype; positive helps.

    Raises:
        TaskError: No training settings.
        UsageError: An epoch, index or route out of range; no query; another optimizer than SGD.
        DataError: The replay does not end in ``final_state``.
        NumericalError: A gradient is not finite, or training diverged.
    """
    check_route(route)
    settings = training_settings(task)
    if not settings.is_plain_sgd and settings.optimizer != "lbfgs":
        raise UsageError(
            f'HyDRA assumes SGD; task "{task.name}" is trained by {settings.optimizer_text}.',
            "Take a task trained by SGD, or unroll the run through its own optimizer.",
        )
    end = settings.num_epochs if last_epoch is None else last_epoch
    if not 1 <= end <= settings.num_epochs:
        raise UsageError(f"The last epoch is {end}.", f'Task "{task.name}" trains epochs 1…{settings.num_epochs}.')
    rows = row_numbers(train_indices, len(next(iter(data["train"].values()))))
    queries = torch.as_tensor(query_indices, dtype=torch.long)
    if len(queries) == 0:
        raise UsageError("There are no queries.", "Give at least one index.")
    if len(np.unique(rows)) != len(rows):
        raise UsageError("A training row is named twice.", "HyDRA sums over the steps that saw a row; name each once.")
    if final_state is None:
        final_state = train(task, data["train"], rows, seed, [end], device, route=route)[-1].state
    model = model_from(task, final_state).to(device)
    places = np.full(rows.max() + 1, -1)
    places[rows] = np.arange(len(rows))
    columns = torch.from_numpy(places)
    factored = not untracked_parameters(model)
    parameters = [p for p in model.parameters() if p.requires_grad]
    size = len(queries) if factored else max(1, query_numbers // sum(p.numel() for p in parameters))
    parts, total = queries.split(size), end * -(-len(queries) // size)
    scores = torch.zeros(len(queries), len(rows), dtype=torch.float64)
    for number, part in enumerate(parts):
        model.load_state_dict(dict(final_state))
        product = _QueryProducts(task, model, data, part, batch_size, device, factored=factored)
        out = scores[number * size : number * size + len(part)]

        def add(state: Mapping[str, Tensor], batch: Tensor, rate: float, product=product, out=out) -> None:
            model.load_state_dict(dict(state))
            batch = batch.cpu()
            out[:, columns[batch]] -= product(batch) * (rate / len(batch))

        for epoch in _replay(task, data["train"], rows, seed, end, final_state, route, device, add):
            if on_progress is not None:
                on_progress(number * end + epoch, total)
    return ScoreMatrix(scores.mul_(len(rows)).to(parameters[0].dtype))


def _replay(
    task: Task,
    data: Batch,
    rows: np.ndarray,
    seed: int,
    end: int,
    final_state: Mapping[str, Tensor],
    route: Route,
    device: torch.device | str,
    add: StepHook,
) -> Iterator[int]:
    """Train again, calling ``add`` before every step, and yield the epochs done."""
    cuda = [torch.device(device)] if torch.device(device).type == "cuda" else []

    def on_step(state: Mapping[str, Tensor], batch: Tensor, rate: float) -> None:
        with torch.random.fork_rng(devices=cuda):  # a model's own randomness must not notice that we looked
            add(state, batch, rate)

    with reproducible(device):
        trainer = single_trainer(task, data, rows, seed, device, route)
        trainer.on_step = on_step
        for epoch in range(1, end + 1):
            trainer.train_epoch(epoch)
            yield epoch
        _check_same(trainer.states()[0], final_state, end)


def _check_same(replayed: Mapping[str, Tensor], stored: Mapping[str, Tensor], end: int) -> None:
    for name, value in replayed.items():
        if not torch.equal(value, stored[name].cpu()):
            difference = float((value.double() - stored[name].cpu().double()).abs().max())
            raise DataError(
                f"Replaying the training to epoch {end} ends elsewhere than the stored checkpoint: {name} differs by "
                f"{difference:.3g}.",
                "Give the seed, rows, device and route of the stored run; another PyTorch or processor may round "
                "otherwise, then train again.",
            )


class _QueryProducts:
    """φ'(θ_T)·∇ℓ(z; θ_t) of all queries with the examples of a batch; φ' is taken when this is made."""

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        data: Mapping[str, Batch],
        queries: Tensor,
        batch_size: int,
        device: torch.device | str,
        *,
        factored: bool,
    ) -> None:
        self._task, self._model, self._train, self._device = task, model, data["train"], device
        self._factors: GradientFactors | None = None
        self._verified = False
        self._dense: dict[str, Tensor] = {}
        if factored:
            factors = linear_factors(task, model, data["test"], queries, "goodness", batch_size, device)[0]
            self._factors = _double(factors)  # once, not at every step
        else:
            self._dense = _dense_gradients(task, model, data["test"], queries, "goodness", batch_size, device)

    def __call__(self, rows: Tensor) -> Tensor:
        """Return ``[m, b]`` float64 at the model's present parameters."""
        if self._factors is not None:
            own, _ = linear_factors(
                self._task,
                self._model,
                self._train,
                rows,
                "train_loss",
                len(rows),
                self._device,
                verify=not self._verified,  # at every step it would take a third of the time
            )
            self._verified = True
            return inner_products(self._factors, own)
        own = _dense_gradients(self._task, self._model, self._train, rows, "train_loss", len(rows), self._device)
        total = torch.zeros(len(next(iter(self._dense.values()))), len(rows), dtype=torch.float64)
        for name, query in self._dense.items():
            total += query @ own[name].T
        return total


def _double(factors: GradientFactors) -> GradientFactors:
    return GradientFactors(
        tuple(LayerFactors(f.name, f.inputs.to(torch.float64), f.deltas.to(torch.float64)) for f in factors.layers)
    )


def _dense_gradients(
    task: Task,
    model: nn.Module,
    data: Batch,
    rows: Tensor,
    quantity: Quantity,
    batch_size: int,
    device: torch.device | str,
) -> dict[str, Tensor]:
    """Return per-example gradients by parameter name, ``[N, numel]`` in the model's dtype."""
    pieces: dict[str, list[Tensor]] = {}
    budget = len(rows) * max(sum(p.numel() for p in model.parameters()), 2048)  # one pass over the model
    blocks = dense_gradient_blocks(
        task, model, [(data, rows, quantity)], budget_numbers=budget, batch_size=batch_size, device=device
    )
    for block in blocks:
        pieces.setdefault(block.parameter, []).append(block.values)
    return {name: torch.cat(parts, dim=1) for name, parts in pieces.items()}
