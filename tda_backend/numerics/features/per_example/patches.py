"""Convolutions of any dimension as products: what each output pixel sees, and the transposed case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Window:
    """A kernel's shape and how it moves.

    Attributes:
        kernel: Spatial shape.
        stride: One per axis.
        padding: (before, after) per axis.
        dilation: One per axis.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]

    @classmethod
    def of(
        cls,
        weight: Tensor,
        stride: int | Sequence[int],
        padding: int | Sequence[int] | str,
        dilation: int | Sequence[int],
    ) -> Window:
        """Return the window of a call, whose arguments may be one number for all axes."""
        kernel = tuple(weight.shape[2:])
        num = len(kernel)
        steps, gaps = _per_axis(stride, num), _per_axis(dilation, num)
        if padding == "same":
            totals = [gap * (size - 1) for size, gap in zip(kernel, gaps, strict=True)]
            sides = tuple((total // 2, total - total // 2) for total in totals)  # an odd one more goes to the end
        else:
            sides = tuple((p, p) for p in ((0,) * num if isinstance(padding, str) else _per_axis(padding, num)))
        return cls(kernel, steps, sides, gaps)

    def patches(self, x: Tensor, groups: int, limits: Sequence[int] | None = None) -> Tensor:
        """Return what each position of the window sees, ``[b, G, positions, c/G·kernel]``.

        Args:
            x: ``[b, c, *spatial]``.
            groups: G.
            limits: Number of positions along each axis, where there is room for more.
        """
        axes = len(self.kernel)
        x = functional.pad(x, [p for pair in reversed(self.padding) for p in pair])
        for axis, (size, step, gap) in enumerate(zip(self.kernel, self.stride, self.dilation, strict=True)):
            x = x.unfold(axis + 2, gap * (size - 1) + 1, step)[..., ::gap]
            if limits is not None:
                x = x.narrow(axis + 2, 0, limits[axis])
        x = x.unflatten(1, (groups, -1))  # [b, G, c/G, *positions, *kernel]
        places, kernel = range(3, 3 + axes), range(3 + axes, 3 + 2 * axes)
        positions = x.shape[3 : 3 + axes].numel()
        # Copied with positions as last axis, along which the input is contiguous, and turned afterwards.
        x = x.permute(0, 1, 2, *kernel, *places)
        return x.reshape(*x.shape[:2], -1, positions).transpose(2, 3)


def _per_axis(value: int | Sequence[int], num: int) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,) * num
    values = tuple(int(v) for v in value)
    return values * num if len(values) == 1 else values


def _pixels(x: Tensor, groups: int) -> Tensor:
    """Return ``[b, c, *spatial]`` as ``[b, G, pixels, c/G]``."""
    return x.flatten(2).unflatten(1, (groups, -1)).transpose(2, 3)


def convolution_factors(x: Tensor, delta: Tensor, window: Window, groups: int) -> tuple[Tensor, Tensor]:
    """Return inputs ``[b, G, t, c/G·kernel]`` and deltas ``[b, G, t, d_out/G]``, t over output pixels."""
    return window.patches(x, groups), _pixels(delta, groups)


def transposed_factors(x: Tensor, delta: Tensor, window: Window, groups: int) -> tuple[Tensor, Tensor]:
    """Return the factors of a transposed convolution, whose weight is ``[c_in, c_out/G, *kernel]``.

    It is the adjoint of a convolution, so input and output change places: ``[b, G, t, c_out/G·kernel]`` from the
    output's gradient and ``[b, G, t, c_in/G]`` from the input, t over input pixels.
    """
    return window.patches(delta, groups, x.shape[2:]), _pixels(x, groups)
