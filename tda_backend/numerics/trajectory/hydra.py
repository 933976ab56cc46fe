"""HyDRA's fast version: every step's products summed, curvature left out, by replaying the training run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from tda_backend.errors import DataError, UsageError
from tda_backend.models.probe import Group, Probe, home_of
from tda_backend.models.tasks.settings import training_settings
from tda_backend.models.training.fit import model_from, single_trainer, train
from tda_backend.models.training.routes.schedule import StepHook
from tda_backend.models.training.run import TrainingRun, check_route, reproducible
from tda_backend.numerics.features.dense import Request, dense_gradient_blocks
from tda_backend.numerics.features.factors import GradientFactors, LayerFactors, linear_factors, untracked_parameters
from tda_backend.numerics.features.gram import inner_products
from tda_backend.numerics.features.streaming import Quantity
from tda_backend.numerics.spectral.contraction import ScoreMatrix

_QUERY_NUMBERS = 2**27
"""Numbers (512 MiB of float32) of dense query gradients held at once; more queries take further replays."""


def hydra_scores(
    run: TrainingRun,
    query_indices: Sequence[int] | Tensor,
    *,
    last_epoch: int | None = None,
    final_state: Mapping[str, Tensor] | None = None,
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
        run: The run to replay, n examples: its seed, device and route give the bits of the stored run.
        query_indices: Rows of the test split, m.
        last_epoch: Where the run ends (``None``: the last epoch of the settings).
        final_state: Its stored final state; without it the run is trained once more.
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
    end, rows = _checked_end(run, last_epoch), _checked_rows(run)
    queries = torch.as_tensor(query_indices, dtype=torch.long)
    if len(queries) == 0:
        raise UsageError("There are no queries.", "Give at least one index.")
    if final_state is None:
        final_state = train(run, [end])[-1].state
    model = model_from(run.task, final_state).to(run.device)
    probe = Probe(run.task, model, run.data, device=run.device, batch_size=batch_size)
    sums = _StepSums(rows, len(queries), home_of(run.device))
    num_parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    factored = not untracked_parameters(model)
    size = len(queries) if factored else max(1, query_numbers // num_parameters)
    parts, total = queries.split(size), end * -(-len(queries) // size)
    for number, part in enumerate(parts):
        model.load_state_dict(dict(final_state))
        products = _QueryProducts(replace(probe, query=part), factored=factored)
        add = sums.adder(products, slice(number * size, number * size + len(part)))
        for epoch in _replay(run, end, final_state, add):
            if on_progress is not None:
                on_progress(number * end + epoch, total)
    return ScoreMatrix(sums.values.mul_(len(rows)).to(probe.dtype))


def _checked_end(run: TrainingRun, last_epoch: int | None) -> int:
    """Return the last epoch of a run that HyDRA can replay."""
    check_route(run.route)
    task, settings = run.task, training_settings(run.task)
    if not settings.is_plain_sgd and not settings.finds_optimum:
        raise UsageError(
            f'HyDRA assumes SGD; task "{task.name}" is trained by {settings.optimizer_text}.',
            "Take a task trained by SGD, or unroll the run through its own optimizer.",
        )
    end = settings.num_epochs if last_epoch is None else last_epoch
    if not 1 <= end <= settings.num_epochs:
        raise UsageError(f"The last epoch is {end}.", f'Task "{task.name}" trains epochs 1…{settings.num_epochs}.')
    return end


def _checked_rows(run: TrainingRun) -> np.ndarray:
    rows = run.row_numbers()
    if len(np.unique(rows)) != len(rows):
        raise UsageError("A training row is named twice.", "HyDRA sums over the steps that saw a row; name each once.")
    return rows


def _replay(run: TrainingRun, end: int, final_state: Mapping[str, Tensor], add: StepHook) -> Iterator[int]:
    """Train again, calling ``add`` before every step, and yield the epochs done."""
    cuda = [torch.device(run.device)] if torch.device(run.device).type == "cuda" else []

    def on_step(state: Mapping[str, Tensor], batch: Tensor, rate: float) -> None:
        with torch.random.fork_rng(devices=cuda):  # a model's own randomness must not notice that we looked
            add(state, batch, rate)

    with reproducible(run.device):
        trainer = single_trainer(run)
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


class _StepSums:
    """Σ_t −(η_t/B_t)·φ'ᵀ∇ℓ of every query with every trained row, ``[m, n]`` float64.

    Args:
        rows: The trained rows, ``[n]``.
        num_queries: m.
        device: Where the sums are.
    """

    def __init__(self, rows: np.ndarray, num_queries: int, device: torch.device | str) -> None:
        places = np.full(rows.max() + 1, -1)
        places[rows] = np.arange(len(rows))
        self._columns = torch.from_numpy(places)
        self.values = torch.zeros(num_queries, len(rows), dtype=torch.float64, device=device)

    def adder(self, products: _QueryProducts, queries: slice) -> StepHook:
        """Return the hook that adds each step's part for some queries."""
        out = self.values[queries]

        def add(state: Mapping[str, Tensor], batch: Tensor, rate: float) -> None:
            products.probe.model.load_state_dict(dict(state))
            batch = batch.cpu()
            out[:, self._columns[batch]] -= products(batch) * (rate / len(batch))

        return add


class _QueryProducts:
    """φ'(θ_T)·∇ℓ(z; θ_t) of all queries with the examples of a batch; φ' is taken when this is made."""

    def __init__(self, probe: Probe, *, factored: bool) -> None:
        self.probe = probe
        self._factors: GradientFactors | None = None
        self._verified = False
        self._dense: dict[str, Tensor] = {}
        if factored:
            self._factors = _double(linear_factors(probe, "query", "goodness")[0])  # once, not at every step
        else:
            self._dense = _dense_gradients(probe, "query", "goodness")

    def __call__(self, rows: Tensor) -> Tensor:
        """Return ``[m, b]`` float64 at the model's present parameters."""
        batch = replace(self.probe, train=rows, batch_size=len(rows))
        if self._factors is not None:
            # Verified once: at every step it would take a third of the time.
            own, _ = linear_factors(batch, "train", "train_loss", verify=not self._verified)
            self._verified = True
            return inner_products(self._factors, own)
        own = _dense_gradients(batch, "train", "train_loss")
        first = next(iter(self._dense.values()))
        total = first.new_zeros(len(first), len(rows), dtype=torch.float64)
        for name, query in self._dense.items():
            total += query @ own[name].T
        return total


def _double(factors: GradientFactors) -> GradientFactors:
    return GradientFactors(
        tuple(LayerFactors(f.name, f.inputs.to(torch.float64), f.deltas.to(torch.float64)) for f in factors.layers)
    )


def _dense_gradients(probe: Probe, group: Group, quantity: Quantity) -> dict[str, Tensor]:
    """Return a group's per-example gradients by parameter name, ``[N, numel]`` in the model's dtype."""
    pieces: dict[str, list[Tensor]] = {}
    budget = probe.count(group) * max(sum(p.numel() for p in probe.model.parameters()), 2048)  # one pass over the model
    for block in dense_gradient_blocks(probe, [Request(group, quantity)], budget_numbers=budget):
        pieces.setdefault(block.parameter, []).append(block.values)
    return {name: torch.cat(parts, dim=1) for name, parts in pieces.items()}
