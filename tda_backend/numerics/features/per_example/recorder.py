"""Recording which calls use which parameters while a model runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from tda_backend.errors import ran_out_of_memory
from tda_backend.numerics.features.per_example.calls import Explanation, Setting
from tda_backend.numerics.features.per_example.contributions import Contribution, Dense
from tda_backend.numerics.features.per_example.course import Course
from tda_backend.numerics.features.per_example.rules import explain
from tda_backend.numerics.features.per_example.spread_rules import SPREAD
from tda_backend.numerics.features.recording import OpenAttention


@dataclass(frozen=True)
class Use:
    """One call that uses a parameter.

    Attributes:
        rule: Which rule explains it, with r: (kind, folded).
        edge: Index of the gradient that it needs, among the recorder's edges.
        eps: ε of the precision in which the call computed.
        kept: Tensors with the version that they had.
        form: Gradient of the output → contribution.
    """

    rule: tuple[str, int]
    edge: int
    eps: float
    kept: tuple[tuple[Tensor, int], ...]
    form: Callable[[Tensor], Contribution]

    @property
    def intact(self) -> bool:
        """Whether what the call was given has not been overwritten since."""
        return all(tensor._version == version for tensor, version in self.kept)


@dataclass
class Uses:
    """What was recorded of one parameter.

    Attributes:
        calls: In the order in which they were made.
    """

    calls: list[Use] = field(default_factory=list)

    @property
    def signature(self) -> tuple[tuple[str, int], ...]:
        return tuple(call.rule for call in self.calls)


class ParameterRecorder(OpenAttention):
    """Records calls that explain gradients of trainable parameters while it is entered.

    Attributes:
        uses: Name of the parameter → its calls.
        edges: Where gradients of outputs can be asked for, whatever happens to the outputs in place later.
        numbers: Numbers that all calls hold, gradients of outputs included.
        loose: Parameters that meet examples in a call which no rule explains; on some examples that may not show.
        course: Which calls were made.
    """

    def __init__(self, named: Mapping[str, nn.Parameter], batch: Mapping[str, Tensor], dtype: torch.dtype) -> None:
        super().__init__()
        self._parameters = named
        self._named = {id(parameter): (name, parameter) for name, parameter in named.items()}
        self._of_parameters: dict[int, tuple[Tensor, frozenset[str]]] = {}  # computed from parameters alone
        self._size, self._dtype = len(next(iter(batch.values()))), dtype
        for tensor in batch.values():
            _mark(tensor)
        self.uses: dict[str, Uses] = {name: Uses() for name in named}
        self.edges: list[GradientEdge] = []
        self.numbers = 0
        self.loose: set[str] = set()
        self.course = Course()

    def saw(self, func: Any, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        """Record what explains a parameter, and follow where examples and parameters go."""
        given = _tensors((*args, *kwargs.values()))
        outputs = _tensors(output if isinstance(output, tuple | list) else (output,))
        name = getattr(func, "__name__", "")
        if name == "__setitem__":  # returns nothing
            outputs = _tensors(args[:1])
        if not given or not outputs:
            return
        self.course.note(func, args, kwargs, self._is_of_batch)
        setting = Setting(self._size, self._dtype, self.attention_batch, self._is_of_batch, self._is_of_parameters)
        explanations = explain(func, args, kwargs, output, setting)
        explained: set[str] = set()
        if explanations:
            dtypes = [x.dtype for x in (*given, *outputs) if x.is_floating_point()]
            explained = self._record(explanations, outputs[0], dtypes)
        names = frozenset[str]().union(*(self._sources(x) for x in (given[:1] if name in _LIKE else given)))
        if explanations or any(self._is_of_batch(x) for x in given):
            if any(each.requires_grad for each in outputs):
                self.loose |= names - explained
            for each in outputs:
                _mark(each)
        elif names:
            self._of_parameters |= {id(each): (each, names) for each in outputs if each.requires_grad}

    def _sources(self, tensor: Tensor) -> frozenset[str]:
        """Return the parameters that a tensor is computed from, where that is all."""
        if id(tensor) in self._named:
            return frozenset([self._named[id(tensor)][0]])
        return self._of_parameters[id(tensor)][1] if id(tensor) in self._of_parameters else frozenset()

    def _is_of_parameters(self, tensor: Tensor) -> bool:
        return bool(self._sources(tensor))

    def _is_of_batch(self, tensor: Tensor) -> bool:
        # What has a gradient and comes from no parameter was made where no call is seen: in a custom function.
        return getattr(tensor, _MARK, False) or (tensor.requires_grad and not self._sources(tensor))

    def _record(self, explanations: list[Explanation], output: Tensor, dtypes: list[torch.dtype]) -> set[str]:
        """Record the calls of parameters; return their names."""
        eps = max(torch.finfo(dtype).eps for dtype in dtypes)
        found: list[tuple[str, Explanation, Callable[[Tensor], Contribution]]] = []
        for each in explanations:
            place = self._place(each.argument)
            if place is not None:
                found.append((place[0], each, partial(_formed, each.form, place[1])))
            elif each.kind == SPREAD:
                for name in sorted(self._sources(each.argument)):
                    found.append((name, each, partial(_pulled_back, each, self._parameters[name])))
        if not found:
            return set()
        self.numbers += output.numel() + sum(each.numbers for each in {id(each): each for _, each, _ in found}.values())
        for name, each, form in found:
            kept = tuple((tensor, tensor._version) for tensor in each.kept)
            self.uses[name].calls.append(Use((each.kind, each.folded), len(self.edges), eps, kept, form))
        self.edges.append(get_gradient_edge(output))
        return {name for name, _, _ in found}

    def _place(self, argument: Tensor) -> tuple[str, int] | None:
        """Return the parameter that an argument is, or is a contiguous part of, and where it begins."""
        if id(argument) in self._named:
            return self._named[id(argument)][0], 0
        name, parameter = self._named.get(id(argument._base), ("", None))
        if parameter is None or not parameter.is_contiguous() or not argument.is_contiguous():
            return None
        if argument.dtype != parameter.dtype:
            return None
        return name, int(argument.storage_offset() - parameter.storage_offset())


def _formed(form: Callable[[Tensor, int], Contribution], first: int, delta: Tensor) -> Contribution:
    return form(delta, first)


def _pulled_back(explanation: Explanation, parameter: nn.Parameter, delta: Tensor) -> Dense:
    """Return the gradients of a parameter from those of what was computed from it, example by example."""
    outer = explanation.argument
    values = cast(Dense, explanation.form(delta, 0)).values
    rows = values.view(len(values), *outer.shape).to(outer.dtype)
    try:
        (result,) = torch.autograd.grad(
            outer, parameter, rows, retain_graph=True, allow_unused=True, is_grads_batched=True
        )
    except RuntimeError as error:  # an operation without a batching rule
        if ran_out_of_memory(error):
            raise
        parts = [torch.autograd.grad(outer, parameter, row, retain_graph=True)[0] for row in rows]
        result = torch.stack(parts)
    assert result is not None
    return Dense(0, result.reshape(len(values), -1).to(values.dtype))


def _tensors(values: Iterable[Any]) -> list[Tensor]:
    """Return the tensors among values, and among those of lists and tuples in them."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += [each for each in value if isinstance(each, Tensor)]
    return found


_LIKE = ("type_as", "to", "expand_as", "view_as", "reshape_as")
"""Calls that take no more of their second tensor than its shape or type."""

_MARK = "computed_from_examples"


def _mark(tensor: Tensor) -> None:
    """Remember, on the tensor itself, that it depends on the examples."""
    setattr(tensor, _MARK, True)
