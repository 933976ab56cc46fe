"""Recording the calls in which a model applies its weights, by the parameter that is applied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from tda_backend.errors import TaskError

_ATTENTION = functional.multi_head_attention_forward
# The same code with its hand-over to function modes taken out: otherwise the recorder, which has just been handed the
# call, could not look inside it.
_OPEN_ATTENTION = FunctionType(
    _ATTENTION.__code__,
    {**_ATTENTION.__globals__, "has_torch_function": lambda arguments: False},
    _ATTENTION.__name__,
    _ATTENTION.__defaults__,
    _ATTENTION.__closure__,
)
_OPEN_ATTENTION.__kwdefaults__ = _ATTENTION.__kwdefaults__


@dataclass(frozen=True)
class Convolution:
    """Arguments of a convolution, as its caller gave them.

    Attributes:
        kernel: Spatial shape of the kernel.
        stride: One for all axes, or one per axis.
        padding: Likewise, or ``same`` or ``valid``.
        dilation: One for all axes, or one per axis.
        groups: G.
    """

    kernel: tuple[int, ...]
    stride: int | Sequence[int]
    padding: int | Sequence[int] | str
    dilation: int | Sequence[int]
    groups: int


class _Given(NamedTuple):
    """What a call of linear or a convolution was given; the order is that of the convolutions' arguments."""

    input: Tensor
    weight: Tensor
    bias: Tensor | None = None
    stride: int | Sequence[int] = 1
    padding: int | Sequence[int] | str = 0
    dilation: int | Sequence[int] = 1
    groups: int = 1


class Layer(Protocol):
    """What recording needs of a tracked layer."""

    @property
    def name(self) -> str: ...

    @property
    def weight(self) -> str: ...


@dataclass(frozen=True)
class Call:
    """One application of (some rows of) a weight.

    Attributes:
        layer: Name of the layer.
        input: Detached copy of what went in.
        edge: Where the gradient of the output can be asked for, whatever happens to the output in place later; ``None``
            when the output carries no gradient.
        output_shape: Shape of the output.
        rows: Rows of the weight that were applied.
        num_rows: Rows of the whole weight.
        attention_batch: Examples in the second axis, inside ``multi_head_attention_forward``; else ``None``.
        convolution: Arguments of a convolution, or ``None``.
    """

    layer: str
    input: Tensor
    edge: GradientEdge | None
    output_shape: torch.Size
    rows: slice
    num_rows: int
    attention_batch: int | None
    convolution: Convolution | None

    def factors(self, grad: Tensor | None, size: int) -> tuple[Tensor, Tensor]:
        """Return inputs ``[b, t, d_in]`` (no homogeneous 1 yet) and deltas ``[b, t, d_out]``.

        Args:
            grad: Gradient of the summed value with respect to the output; ``None`` for zero.
            size: b.

        Raises:
            TaskError: The first axis does not enumerate the examples.
        """
        delta = self.input.new_zeros(self.output_shape) if grad is None else grad
        a = self.input
        if self.attention_batch is not None:  # [t, b, d] or [t·b, d]
            a, delta = (x.reshape(-1, self.attention_batch, x.shape[-1]).transpose(0, 1) for x in (a, delta))
        if a.ndim < 2 or a.shape[0] != size or (self.convolution is not None and a.ndim == self._spatial + 1):
            raise TaskError(
                f"Layer {self.layer!r} sees input of shape {tuple(self.input.shape)} for a batch of {size} examples.",
                "The first axis must enumerate examples; do not fold positions into it.",
            )
        if self.convolution is not None:
            a, delta = _convolution_positions(a, delta, self.convolution)
        else:
            a, delta = a.reshape(size, -1, a.shape[-1]), delta.reshape(size, -1, delta.shape[-1])
        if self.rows != slice(0, self.num_rows):
            whole = delta.new_zeros(*delta.shape[:-1], self.num_rows)
            whole[..., self.rows] = delta
            delta = whole
        return a, delta

    @property
    def _spatial(self) -> int:
        return len(self.convolution.kernel) if self.convolution is not None else 0


class OpenAttention(TorchFunctionMode):
    """Hands every call to :meth:`saw` while it is entered, those inside ``multi_head_attention_forward`` too.

    Fused attention is off meanwhile: its kernels take the weights without any of these calls.

    Attributes:
        attention_batch: Examples in the second axis, inside ``multi_head_attention_forward``; else ``None``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.attention_batch: int | None = None
        self._fast = True

    def __enter__(self):
        if self.attention_batch is None:  # not the second entry, from inside attention
            self._fast = torch.backends.mha.get_fastpath_enabled()
            torch.backends.mha.set_fastpath_enabled(False)
        return super().__enter__()

    def __exit__(self, *details) -> None:
        super().__exit__(*details)
        if self.attention_batch is None:
            torch.backends.mha.set_fastpath_enabled(self._fast)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is _ATTENTION:
            query = args[0] if args else kwargs["query"]
            outer, self.attention_batch = self.attention_batch, query.shape[1] if query.ndim == 3 else 1
            try:
                with self:
                    return _OPEN_ATTENTION(*args, **kwargs)
            finally:
                self.attention_batch = outer
        output = func(*args, **kwargs)
        self.saw(func, args, kwargs, output)
        return output

    def saw(self, func: Any, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        """Take note of a call; function modes are off meanwhile."""
        raise NotImplementedError


class CallRecorder(OpenAttention):
    """Records calls of linear, conv1d and conv2d with a tracked weight while it is entered."""

    def __init__(self, model: nn.Module, layers: Sequence[Layer]) -> None:
        super().__init__()
        named = dict(model.named_parameters())
        self._layers = {id(named[layer.weight]): (layer.name, named[layer.weight]) for layer in layers}
        self.calls: list[Call] = []

    def saw(self, func: Any, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        """Record a call of a tracked weight."""
        if func is functional.linear or func is functional.conv1d or func is functional.conv2d:
            self._record(func, args, kwargs, output)

    def _record(self, func, args: tuple, kwargs: dict[str, Any], output: Tensor) -> None:
        given = _Given(*args, **kwargs)
        weight = whole = given.weight
        if id(weight) not in self._layers and weight._base is not None:
            whole = weight._base  # rows of a packed weight, as attention over other keys splits it
        name, parameter = self._layers.get(id(whole), ("", None))
        if parameter is None or weight.shape[1:] != parameter.shape[1:] or weight.stride() != parameter.stride():
            return
        first = int(weight.storage_offset() - parameter.storage_offset()) // parameter.stride(0)
        convolution = None
        if func is not functional.linear:
            kernel = tuple(weight.shape[2:])
            convolution = Convolution(kernel, given.stride, given.padding, given.dilation, given.groups)
        self.calls.append(
            Call(
                name,
                # A copy: what follows may overwrite the input in place, since only the output's gradient is asked for.
                given.input.detach().clone(),
                get_gradient_edge(output) if output.requires_grad else None,
                output.shape,
                slice(first, first + weight.shape[0]),
                parameter.shape[0],
                self.attention_batch,
                convolution,
            )
        )


def _convolution_positions(x: Tensor, delta: Tensor, convolution: Convolution) -> tuple[Tensor, Tensor]:
    """Return patches ``[b, t, c/G·k]`` and deltas ``[b, t, d_out]``, t over output pixels and groups."""
    kernel, groups, padding = convolution.kernel, convolution.groups, convolution.padding
    spatial = len(kernel)
    stride, dilation = (_per_axis(value, spatial) for value in (convolution.stride, convolution.dilation))
    if padding == "same":
        totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        sides = [(total // 2, total - total // 2) for total in totals]  # an odd one more goes to the end
    else:
        sides = [(p, p) for p in ((0,) * spatial if isinstance(padding, str) else _per_axis(padding, spatial))]
    x = functional.pad(x, [p for pair in reversed(sides) for p in pair])
    if spatial == 1:
        x, kernel, stride, dilation = x[:, :, None], (1, *kernel), (1, *stride), (1, *dilation)
    patches = functional.unfold(x, kernel, dilation=dilation, stride=stride)  # [b, c·k, pixels]
    size, pixels = patches.shape[0], patches.shape[2]
    a = patches.reshape(size, groups, -1, pixels).transpose(2, 3)  # [b, G, pixels, c/G·k]
    delta = delta.flatten(2).transpose(1, 2)  # [b, pixels, d_out]
    if groups > 1:
        num_outputs = delta.shape[2] // groups
        spread = delta.new_zeros(size, groups, pixels, delta.shape[2])
        for group in range(groups):
            outputs = slice(group * num_outputs, (group + 1) * num_outputs)
            spread[:, group, :, outputs] = delta[:, :, outputs]
        delta = spread
    return a.reshape(size, groups * pixels, -1), delta.reshape(size, groups * pixels, -1)


def _per_axis(value: int | Sequence[int], spatial: int) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,) * spatial
    values = tuple(int(v) for v in value)
    return values * spatial if len(values) == 1 else values
