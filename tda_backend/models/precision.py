"""The precision in which a model is passed where the pass is differentiated: float32, TF32 products, or bfloat16.

========  =======================  ==========================================================  =====================
name      where                    what is computed in it                                      one operation's error
========  =======================  ==========================================================  =====================
float32   everywhere               everything                                                  2⁻²⁴
tf32      NVIDIA GPUs since 2020   factors of matrix products and convolutions are rounded     2⁻¹¹
bf16      these, and CPUs          what ``torch.autocast`` computes in bfloat16                2⁻⁹
========  =======================  ==========================================================  =====================

Sums are in float32 in all of them, and whatever a pass gives is kept in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, TypeAlias

import torch

from tda_backend.errors import UsageError

Precision: TypeAlias = Literal["float32", "tf32", "bf16"]
FULL: Precision = "float32"
TF32: Precision = "tf32"
BF16: Precision = "bf16"
PRECISIONS: tuple[Precision, ...] = (FULL, TF32, BF16)

_WITH_BF16 = ("cpu", "cuda")
_FIRST_WITH_BOTH = 8
"""Compute capability of the first NVIDIA GPUs with TF32 and bfloat16 products."""
_FLOAT32_BYTES = 4


def refuse_precision(precision: Precision, device: torch.device | str, number_bytes: int) -> None:
    """Raise where a model cannot be passed in a precision.

    Args:
        precision: Asked for.
        device: Where the pass runs; one that is not here (another machine's) is judged by its type.
        number_bytes: Of one number of the model's parameters.

    Raises:
        UsageError: The precision is unknown, the device has no such products, or the model is not in float32.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"There is no precision {precision!r}.", f"Allowed: {', '.join(PRECISIONS)}.")
    if precision == FULL:
        return
    kind = torch.device(device).type
    if not (_is_recent_gpu(device) or (precision == BF16 and kind in _WITH_BF16 and kind != "cuda")):
        where = "NVIDIA GPUs of compute capability 8 or later (--device cuda)"
        raise UsageError(
            f'Gradients cannot be passed in precision "{precision}" on the device {kind!r}.',
            f"It exists on {where}{' and on CPUs' if precision == BF16 else ''}. Leave gradients.precision out: "
            f'"{FULL}" runs everywhere.',
        )
    if number_bytes != _FLOAT32_BYTES:
        raise UsageError(
            f'Gradients cannot be passed in precision "{precision}": the parameters of the model have '
            f"{8 * number_bytes} bits, and it is for those in float32.",
            f'Leave gradients.precision out: "{FULL}" means the model\'s own precision, float32 at least.',
        )


def _is_recent_gpu(device: torch.device | str) -> bool:
    if torch.device(device).type != "cuda" or torch.version.hip is not None:
        return False
    return not torch.cuda.is_available() or torch.cuda.get_device_capability(device)[0] >= _FIRST_WITH_BOTH


@contextmanager
def products_in(precision: Precision, device: torch.device | str) -> Iterator[None]:
    """Compute float32 products as a precision says, forward and backward: in TF32, or in float32 whatever is set.

    Settings of PyTorch's are restored, also after an error. Only CUDA has any.
    """
    if torch.device(device).type != "cuda":
        yield
        return
    before = [each.fp32_precision for each in _settings()]
    try:
        _set(["tf32" if precision == TF32 else "ieee"] * len(before))
        yield
    finally:
        _set(before)


def _settings() -> tuple[Any, ...]:
    """Return what decides the precision of float32 products on CUDA: of matrices, in convolutions and recurrences."""
    cudnn: Any = torch.backends.cudnn
    return torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn


def _set(values: list[str]) -> None:
    for each, value in zip(_settings(), values, strict=True):
        each.fp32_precision = value


def forward_in(precision: Precision, device: torch.device | str) -> AbstractContextManager:
    """Return a context for the forward pass alone: autocast where that is in bfloat16.

    The backward pass follows in the precision of the forward pass by itself. Cast weights are not kept, for ``vmap``
    hands in others under the same name.
    """
    if precision != BF16:
        return nullcontext()
    return torch.autocast(torch.device(device).type, torch.bfloat16, cache_enabled=False)
