"""One pass over a group's rows: each batch's per-example gradients of all parameters, from what its calls recorded.

A batch takes one forward and one backward pass, as training does, which asks for the gradients of the calls' outputs
instead of the parameters'. Parameters whose calls do not explain their gradient (recurrent weights, a custom operation)
join by ``vmap`` over the same batch. On a group's first batch, a *weighted* sum of the gradients is compared with
autograd's for every parameter: it finds uses that were not seen, and examples that another axis enumerates. So it is on
later batches whose calls are others, or in which values of the examples choose rows. Where batches are passed in less
than float32, that batch is passed in float32 as well: nothing coarser would tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from tda_backend.blocks import EXAMPLES, block_size, in_blocks
from tda_backend.errors import TaskError
from tda_backend.models.precision import FULL
from tda_backend.models.probe import Group, Probe
from tda_backend.numerics.features.factors import HALF_TOLERANCE
from tda_backend.numerics.features.per_example.company import refuse_other_values
from tda_backend.numerics.features.per_example.contributions import Contribution, Dense, merged
from tda_backend.numerics.features.per_example.recorder import ParameterRecorder, Uses
from tda_backend.numerics.features.per_example.vmapped import differentiator, plain
from tda_backend.numerics.features.streaming import (
    Quantity,
    evaluation_mode,
    examples_of,
    gradient_pass,
    graph_values,
    values_of,
)
from tda_backend.types import Batch

BATCH_NUMBERS = 2**26
"""Numbers (256 MiB of float32) that a batch's recorded calls may hold; autograd's own graph comes on top."""

_BATCH = 64
"""Examples per pass at most."""

_FIRST = 8
"""Examples of the first batch, which is differentiated twice."""

_TOLERANCE = 2**13
"""Relative difference allowed between a weighted sum of gradients and autograd's, in units of ε."""

_CANCELLED = 64
"""The same relative to the sizes of what is summed: a gradient that is zero is rounding alone. In units of ε."""

NamedContributions = Iterator[tuple[str, list[Contribution]]]
T = TypeVar("T")


@dataclass(frozen=True)
class _Pass:
    """What one forward and backward pass of a batch gave.

    Attributes:
        values: ``[b]``, with its graph.
        uses: Parameter → recorded calls.
        grads: Gradients of the calls' outputs.
        unseen: Parameters that no call explains, or not all, although the value may depend on them.
        course: The number of the calls' course.
        new: Whether no batch that was checked took the same course.
    """

    values: Tensor
    uses: dict[str, Uses]
    grads: Sequence[Tensor | None]
    unseen: frozenset[str]
    course: int
    new: bool

    def contributions(self, name: str) -> list[Contribution]:
        """Form the gradients of one parameter; each call's are made from what it kept."""
        with torch.no_grad():
            pairs = [(call, self.grads[call.edge]) for call in self.uses[name].calls]
            return merged([call.form(grad) for call, grad in pairs if grad is not None])

    @property
    def eps(self) -> float:
        """ε of the coarsest precision in which a call computed: what follows one in half precision is coarse too."""
        return max((call.eps for uses in self.uses.values() for call in uses.calls), default=0.0)


class GradientStream:
    """Per-example gradients of a group, batch by batch.

    Args:
        probe: Any model without interaction between examples in eval mode; at most ``probe.batch_size`` examples, and
            at most 64, are passed together.
        group: Whose gradients.
        quantity: What is differentiated.
        budget_numbers: Numbers that a batch may hold; the size of a batch follows from it.
    """

    def __init__(self, probe: Probe, group: Group, quantity: Quantity, budget_numbers: int = BATCH_NUMBERS) -> None:
        self._probe = probe
        self._group: Group = group
        self._quantity: Quantity = quantity
        self._model = probe.model.to(probe.device)
        self._named = {name: p for name, p in self._model.named_parameters() if p.requires_grad}
        self._budget = block_size(budget_numbers)
        self._signatures: dict[str, tuple[tuple[str, int], ...]] | None = None
        self._courses: set[int] = set()  # that were checked
        self._pair: tuple[dict[str, Tensor], Tensor] | None = None  # the first two examples and their values
        self._vmapped: dict[tuple[str, ...], Callable[[Batch], dict[str, Tensor]]] = {}
        in_full = probe.precision == FULL
        self._exact = self if in_full else GradientStream(probe.in_full(), group, quantity, budget_numbers)

    def each(self, compute: Callable[[slice, NamedContributions], T]) -> Iterator[tuple[slice, T]]:
        """Yield (positions among the group's rows, what ``compute`` makes of them and their gradients).

        Args:
            compute: Takes gradients by parameter in model order, and uses them up. Where memory runs out it is called
                again with half of the examples, so it leaves nothing but what it returns.

        Raises:
            TaskError: Examples interact, or the value depends on no trainable parameter.
        """
        rows = self._probe.rows(self._group)
        if not len(rows):
            return
        limit = self._size(rows)

        def of(part: slice) -> T:
            with evaluation_mode(self._model):
                return compute(part, self._gradients(examples_of(self._probe, self._group, rows[part])))

        def size(start: int) -> int:
            return self._below_budget(limit) if start else min(limit, _FIRST)

        yield from in_blocks(len(rows), size, of, EXAMPLES)

    def _size(self, rows: Tensor) -> int:
        """Return how many examples pass together, from what two of them hold."""
        limit = min(self._probe.batch_size, _BATCH, len(rows))
        if limit < 2:
            return 1
        with gradient_pass(self._exact._probe):
            pair = examples_of(self._probe, self._group, rows[:2])
            recorder, values = self._exact._forward(pair)
        self._exact._pair = pair, values.detach()
        return max(1, min(limit, self._budget // max(1, recorder.numbers // 2)))

    def _below_budget(self, limit: int) -> int:
        """Return how many examples pass together at most, by what joins by ``vmap``, which is written out."""
        known = self._named if self._signatures is None else self._signatures
        joined = [p.numel() for name, p in self._named.items() if name not in known]
        return min(limit, max(1, self._budget // max(joined, default=1)))

    def _forward(self, batch: Batch) -> tuple[ParameterRecorder, Tensor]:
        with torch.enable_grad(), ParameterRecorder(self._named, batch, self._probe.dtype) as recorder:
            values = self._values(batch)
        return recorder, values

    def _values(self, batch: Batch) -> Tensor:
        values = graph_values(self._probe, batch, self._quantity)
        if not values.requires_grad:
            raise TaskError(
                "The value does not depend on any trainable parameter.", "Is the model called under no_grad?"
            )
        return values

    def _gradients(self, batch: dict[str, Tensor]) -> NamedContributions:
        size = len(next(iter(batch.values())))
        if size == 1:
            return self._alone(batch)
        done = self._backward(batch)
        if done.new:
            self._check(done, batch)
        return self._in_order(done, batch)

    def _check(self, done: _Pass, batch: dict[str, Tensor]) -> None:
        """Compare a batch's gradients with autograd's: those that another pass gives in float32, or its own."""
        exact = self._exact
        judged = done if exact is self else exact._backward(batch)
        if self._signatures is None:
            wrong = exact._unexplained(judged, list(self._named), batch)
            exact._refuse_company(judged)
            self._signatures = {name: uses.signature for name, uses in done.uses.items() if name not in wrong}
        else:
            for name in exact._unexplained(judged, self._by_calls(done), batch):
                del self._signatures[name]
        self._courses.add(done.course)

    def _alone(self, batch: Batch) -> NamedContributions:
        """Yield the gradients of one example, which autograd gives as they are."""
        with gradient_pass(self._probe), torch.enable_grad():
            grads = torch.autograd.grad(self._values(batch).sum(), list(self._named.values()), allow_unused=True)
        for name, grad in zip(self._named, grads, strict=True):
            if grad is not None:
                yield name, [Dense(0, plain(grad).reshape(1, -1).to(self._probe.dtype))]

    def _backward(self, batch: dict[str, Tensor]) -> _Pass:
        with gradient_pass(self._probe):
            return self._differentiated(batch)

    def _differentiated(self, batch: dict[str, Tensor]) -> _Pass:
        recorder, values = self._forward(batch)
        new = recorder.course.picks or recorder.course.number not in self._courses
        silent = [name for name, uses in recorder.uses.items() if not uses.calls]
        sources = [*recorder.edges, *(self._named[name] for name in silent)]
        # One example more or less does not matter to the others, so the sum's gradient holds every example's own.
        grads = torch.autograd.grad(values.sum(), sources, allow_unused=True, retain_graph=new)
        edges = len(recorder.edges)
        unseen = {name for name, grad in zip(silent, grads[edges:], strict=True) if grad is not None}
        unseen |= {n for n, uses in recorder.uses.items() if not all(call.intact for call in uses.calls)}
        unseen |= recorder.loose
        return _Pass(values, recorder.uses, grads[:edges], frozenset(unseen), recorder.course.number, new)

    def _by_calls(self, done: _Pass) -> list[str]:
        """Return the parameters whose gradients come from calls, which are those of the first batch."""
        known = self._signatures or {}
        return [n for n, uses in done.uses.items() if n not in done.unseen and known.get(n) == uses.signature]

    def _in_order(self, done: _Pass, batch: dict[str, Tensor]) -> NamedContributions:
        """Yield gradients from calls, then those by ``vmap``."""
        explained = dict.fromkeys(self._by_calls(done))
        for name in explained:
            contributions = done.contributions(name)
            if contributions:
                yield name, contributions
        yield from self._by_vmap([name for name in done.uses if name not in explained], batch)

    def _refuse_company(self, done: _Pass) -> None:
        """Raise where the first two examples have other values in the first batch than by themselves."""
        if self._pair is None:
            return
        pair, alone = self._pair

        def again() -> Tensor:
            with torch.no_grad():
                return values_of(self._probe.task, self._model, pair, self._quantity)

        values = done.values.detach()
        eps = max([done.eps, *(torch.finfo(each.dtype).eps for each in (values, *self._named.values()))])
        refuse_other_values(f"{self._quantity} ({self._group})", alone, values, again, eps)

    def _by_vmap(self, names: Sequence[str], batch: dict[str, Tensor]) -> NamedContributions:
        size = len(next(iter(batch.values())))
        for group in _groups({name: self._named[name].numel() for name in names}, self._budget // size):
            if group not in self._vmapped:
                self._vmapped[group] = differentiator(self._probe, self._quantity, group)
            step = max(1, self._budget // sum(self._named[name].numel() for name in group))
            # Fused attention has no rule for vmap, which would take it one example at a time.
            with sdpa_kernel(SDPBackend.MATH), gradient_pass(self._probe):
                parts = [
                    self._vmapped[group]({key: value[start : start + step] for key, value in batch.items()})
                    for start in range(0, size, step)
                ]
            for name in group:
                values = torch.cat([part.pop(name).detach() for part in parts])
                yield name, [Dense(0, values.reshape(size, -1).to(self._probe.dtype))]

    def _unexplained(self, done: _Pass, names: Sequence[str], batch: dict[str, Tensor]) -> set[str]:
        """Return those of some parameters whose calls do not reproduce autograd's weighted sum over the batch.

        Raises:
            TaskError: The gradients of single examples do not reproduce it either.
        """
        weights = torch.linspace(0.5, 1.5, len(done.values), dtype=done.values.dtype, device=done.values.device)
        truth = self._weighted_truth(done.values, names, weights)
        wrong = set(done.unseen.intersection(names))
        for name, expected in truth.items():
            if name not in wrong and not self._reproduces(done, name, weights, expected):
                wrong.add(name)
        in_order = [name for name in self._named if name in wrong]
        difference = expected_size = 0.0
        for name, contributions in self._by_vmap(in_order, batch):
            actual, _ = _weighted_sum(contributions, weights, truth[name])
            difference += float((actual - truth[name]).norm()) ** 2
            expected_size += float(truth[name].norm()) ** 2
        eps = max(done.eps, torch.finfo(self._probe.dtype).eps)
        whole = sum(float(each.norm()) ** 2 for each in truth.values())
        allowed = _allowed(eps) * expected_size**0.5 + _CANCELLED * eps * whole**0.5
        if difference**0.5 > allowed:
            raise TaskError(
                f"The gradients of single examples do not add up to a batch's in {', '.join(in_order[:8])}"
                f"{f' and {len(in_order) - 8} more' if len(in_order) > 8 else ''}.",
                "Examples interact in eval mode, or the first axis does not enumerate them: let each example's value "
                "depend on that example alone.",
            )
        return wrong

    def _weighted_truth(self, values: Tensor, names: Sequence[str], weights: Tensor) -> dict[str, Tensor]:
        """Return autograd's Σ_i w_i g_i by parameter, flattened."""
        if not names:
            return {}
        parameters = [self._named[name] for name in names]
        with gradient_pass(self._probe):
            grads = torch.autograd.grad(values, parameters, grad_outputs=weights, allow_unused=True, retain_graph=True)
        return {
            name: torch.zeros_like(p).flatten().to(self._probe.dtype)
            if grad is None
            else plain(grad).flatten().to(self._probe.dtype)
            for name, p, grad in zip(names, parameters, grads, strict=True)
        }

    def _reproduces(self, done: _Pass, name: str, weights: Tensor, expected: Tensor) -> bool:
        actual, size = _weighted_sum(done.contributions(name), weights, expected)
        eps = max(done.eps, torch.finfo(self._probe.dtype).eps)
        scale = float(actual.norm() + expected.norm())
        return float((actual - expected).norm()) <= _allowed(eps) * scale + _CANCELLED * eps * size


def _allowed(eps: float) -> float:
    """Return the relative tolerance for numbers that were computed with ε; half precision is coarse itself."""
    return min(_TOLERANCE * eps, max(1e-3, HALF_TOLERANCE * eps))


def _weighted_sum(contributions: Sequence[Contribution], weights: Tensor, like: Tensor) -> tuple[Tensor, float]:
    total, size = torch.zeros_like(like), 0.0
    for contribution in contributions:
        part, own = contribution.weighted_sum(weights, len(like))
        total += part
        size += own
    return total, size


def _groups(sizes: Mapping[str, int], limit: int) -> list[tuple[str, ...]]:
    """Return the names in groups of at most ``limit`` numbers together, or of one."""
    groups: list[tuple[str, ...]] = []
    group: list[str] = []
    used = 0
    for name, size in sizes.items():
        if group and used + size > limit:
            groups.append(tuple(group))
            group, used = [], 0
        group.append(name)
        used += size
    return [*groups, tuple(group)] if group else groups
