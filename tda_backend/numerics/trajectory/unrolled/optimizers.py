"""Optimizers as elementwise updates of (θ, state), with their first and second derivatives.

One step takes the batch's raw mean gradient g to θ' and the new state s':

    ĝ  = clip(g) + ω·θ (coupled decay) or clip(g)
    s'_j = β_j·s_j + c_j(ĝ)
    u  = F(ĝ, s')
    θ' = κ·θ − η·u,   κ = 1 − ηω with decoupled decay, else 1

For all five optimizers c_j and F act on every parameter by itself, so that a step's linearisation is a handful of
vectors of length P. An optimizer is one class that gives these vectors; what is done with them is in :class:`Point`.
Derived here for RMSProp, momentum, coupled decay and clipping; for AdamW see METHODS.md §6.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tda_backend.errors import TaskError
from tda_backend.models.probe import in_float64
from tda_backend.numerics.trajectory.unrolled.clipping import Clip, clipped
from tda_backend.numerics.trajectory.unrolled.point import Curvatures, Point, Slot
from tda_backend.types import TrainingSettings


@dataclass(frozen=True)
class Optimizer(ABC):
    """What all optimizers share: weight decay and clipping.

    Attributes:
        weight_decay: ω.
        decoupled: Whether decay shrinks θ beside the update (AdamW) instead of joining the gradient (L2).
        clip_norm: Largest norm of the batch's mean gradient over all parameters, or ``None``.
    """

    weight_decay: float = 0.0
    decoupled: bool = False
    clip_norm: float | None = None
    slots: ClassVar[tuple[str, ...]] = ()
    """What people call the state vectors."""
    keys: ClassVar[tuple[str, ...]] = ()
    """What PyTorch's optimizer calls them."""

    @property
    def num_slots(self) -> int:
        """Number of state vectors s beside θ."""
        return len(self.slots)

    def initial(self, theta: Tensor) -> Tensor:
        """Return the state before the first step, zeros ``[..., s, P]`` for θ ``[..., P]``."""
        return theta.new_zeros(*theta.shape[:-1], self.num_slots, theta.shape[-1])

    def update(self, theta: Tensor, state: Tensor, gradient: Tensor, rate: float, step: int) -> tuple[Tensor, Tensor]:
        """Return (θ', s') after one step; leading axes hold models side by side.

        Args:
            theta: ``[..., P]``.
            state: ``[..., s, P]``.
            gradient: Raw mean gradient of the batch, ``[..., P]``.
            rate: η of this step.
            step: Number of the step, from 1.
        """
        effective = self._effective(theta, gradient)
        new = self._advance(state, effective)
        return self._shrink(rate) * theta - rate * self._direction(effective, new, step), new

    def point(self, theta: Tensor, state: Tensor, gradient: Tensor, rate: float, step: int) -> Point:
        """Return the linearisation of one step of one model (arguments as :meth:`update`, without leading axes)."""
        given = theta  # v̂^(3/2) leaves float32's range
        theta, state, gradient = in_float64(theta), in_float64(state), in_float64(gradient)
        effective = self._effective(theta, gradient)
        direct, slots, curvatures = self._derivatives(effective, self._advance(state, effective), step)
        slots = tuple(Slot(slot.decay, _cast(slot.effect, given), _cast(slot.intake, given)) for slot in slots)
        coupled = 0.0 if self.decoupled else self.weight_decay
        clip = None if self.clip_norm is None else Clip.at(gradient, self.clip_norm, given)
        return Point(rate, self._shrink(rate), coupled, clip, _cast(direct, given), slots, curvatures)

    def _shrink(self, rate: float) -> float:
        return 1.0 - rate * self.weight_decay if self.decoupled else 1.0

    def _effective(self, theta: Tensor, gradient: Tensor) -> Tensor:
        gradient = gradient if self.clip_norm is None else clipped(gradient, self.clip_norm)
        if self.weight_decay and not self.decoupled:
            gradient = gradient + self.weight_decay * theta
        return gradient

    @abstractmethod
    def _advance(self, state: Tensor, gradient: Tensor) -> Tensor:
        """Return s' ``[..., s, P]``."""

    @abstractmethod
    def _direction(self, gradient: Tensor, state: Tensor, step: int) -> Tensor:
        """Return u = F(ĝ, s') ``[..., P]``."""

    @abstractmethod
    def _derivatives(
        self, gradient: Tensor, state: Tensor, step: int
    ) -> tuple[Tensor | float, tuple[Slot, ...], Curvatures]:
        """Return ∂F/∂ĝ, what each slot does, and the second derivatives."""


@dataclass(frozen=True)
class SGD(Optimizer):
    """u = ĝ."""

    def _advance(self, state: Tensor, gradient: Tensor) -> Tensor:
        return state

    def _direction(self, gradient: Tensor, state: Tensor, step: int) -> Tensor:
        return gradient

    def _derivatives(
        self, gradient: Tensor, state: Tensor, step: int
    ) -> tuple[Tensor | float, tuple[Slot, ...], Curvatures]:
        return 1.0, (), Curvatures()


@dataclass(frozen=True)
class Momentum(Optimizer):
    """b' = μ·b + ĝ, u = b' (heavy ball without dampening).

    Attributes:
        momentum: μ.
    """

    momentum: float = 0.9
    slots: ClassVar[tuple[str, ...]] = ("momentum",)
    keys: ClassVar[tuple[str, ...]] = ("momentum_buffer",)

    def _advance(self, state: Tensor, gradient: Tensor) -> Tensor:
        return self.momentum * state + gradient[..., None, :]

    def _direction(self, gradient: Tensor, state: Tensor, step: int) -> Tensor:
        return state[..., 0, :]

    def _derivatives(
        self, gradient: Tensor, state: Tensor, step: int
    ) -> tuple[Tensor | float, tuple[Slot, ...], Curvatures]:
        return 0.0, (Slot(self.momentum, 1.0, 1.0),), Curvatures()


@dataclass(frozen=True)
class Adam(Optimizer):
    """m' = β₁m + (1−β₁)ĝ, v' = β₂v + (1−β₂)ĝ², u = m̂/(√v̂ + ε); AdamW with decoupled decay.

    Attributes:
        betas: β₁ and β₂.
        eps: ε.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    slots: ClassVar[tuple[str, ...]] = ("first moment", "second moment")
    keys: ClassVar[tuple[str, ...]] = ("exp_avg", "exp_avg_sq")

    def _advance(self, state: Tensor, gradient: Tensor) -> Tensor:
        first, second = self.betas
        moments = torch.stack([(1 - first) * gradient, (1 - second) * gradient.square()], dim=-2)
        factors = moments.new_tensor([first, second])[:, None]
        return factors * state + moments

    def _direction(self, gradient: Tensor, state: Tensor, step: int) -> Tensor:
        mean, square = self._corrected(state, step)
        return mean / (square.sqrt() + self.eps)

    def _corrected(self, state: Tensor, step: int) -> tuple[Tensor, Tensor]:
        first, second = (1 - beta**step for beta in self.betas)
        return state[..., 0, :] / first, state[..., 1, :] / second

    def _derivatives(
        self, gradient: Tensor, state: Tensor, step: int
    ) -> tuple[Tensor | float, tuple[Slot, ...], Curvatures]:
        (beta1, beta2), (first, second) = self.betas, (1 - beta**step for beta in self.betas)
        mean, square = self._corrected(state, step)
        quotient = _Quotient.of(mean, square, self.eps)
        slots = (
            Slot(beta1, quotient.by_numerator / first, 1 - beta1),
            Slot(beta2, quotient.by_square / second, 2 * (1 - beta2) * gradient),
        )
        curvatures = Curvatures(
            slot=(0.0, 2 * (1 - beta2)),
            mixed={(0, 1): quotient.mixed / (first * second)},
            pure={1: quotient.twice_square / second**2},
        )
        return 0.0, slots, curvatures


@dataclass(frozen=True)
class RMSProp(Optimizer):
    """v' = αv + (1−α)ĝ², u = ĝ/(√v' + ε), neither centred nor with momentum.

    Attributes:
        smoothing: α.
        eps: ε.
    """

    smoothing: float = 0.99
    eps: float = 1e-8
    slots: ClassVar[tuple[str, ...]] = ("second moment",)
    keys: ClassVar[tuple[str, ...]] = ("square_avg",)

    def _advance(self, state: Tensor, gradient: Tensor) -> Tensor:
        return self.smoothing * state + (1 - self.smoothing) * gradient.square()[..., None, :]

    def _direction(self, gradient: Tensor, state: Tensor, step: int) -> Tensor:
        return gradient / (state[..., 0, :].sqrt() + self.eps)

    def _derivatives(
        self, gradient: Tensor, state: Tensor, step: int
    ) -> tuple[Tensor | float, tuple[Slot, ...], Curvatures]:
        quotient = _Quotient.of(gradient, state[0], self.eps)
        slots = (Slot(self.smoothing, quotient.by_square, 2 * (1 - self.smoothing) * gradient),)
        curvatures = Curvatures(
            slot=(2 * (1 - self.smoothing),), with_gradient={0: quotient.mixed}, pure={0: quotient.twice_square}
        )
        return quotient.by_numerator, slots, curvatures


@dataclass(frozen=True)
class _Quotient:
    """Derivatives of N/(√V + ε) by N and V; 0 where V = 0, where the gradient has been 0 at every step."""

    by_numerator: Tensor
    by_square: Tensor
    mixed: Tensor
    twice_square: Tensor

    @classmethod
    def of(cls, numerator: Tensor, square: Tensor, eps: float) -> _Quotient:
        alive = square > 0
        safe = torch.where(alive, square, 1.0)
        root, below = safe.sqrt(), safe.sqrt() + eps
        by_square = -numerator / (2 * root * below.square())
        mixed = -1 / (2 * root * below.square())
        twice = numerator * (1 / (4 * safe * root * below.square()) + 1 / (2 * safe * below.pow(3)))
        zero = torch.zeros_like(square)
        return cls(
            1 / (square.sqrt() + eps),
            torch.where(alive, by_square, zero),
            torch.where(alive, mixed, zero),
            torch.where(alive, twice, zero),
        )


def _cast(value: Tensor | float, like: Tensor) -> Tensor | float:
    return value.to(like) if isinstance(value, Tensor) else value


def optimizer_of(settings: TrainingSettings) -> Optimizer:
    """Return the optimizer that training settings name.

    Raises:
        TaskError: The settings train to an optimum, where there is no path to unroll.
    """
    name = settings.optimizer
    shared = {
        "weight_decay": settings.weight_decay,
        "decoupled": settings.decouples_decay,
        "clip_norm": settings.clip_norm,
    }
    if name in ("adam", "adamw"):
        return Adam(**shared, betas=(settings.betas[0], settings.betas[1]), eps=settings.eps)
    if name == "rmsprop":
        return RMSProp(**shared, smoothing=settings.smoothing, eps=settings.eps)
    if name == "sgd":
        return Momentum(**shared, momentum=settings.momentum) if settings.momentum else SGD(**shared)
    raise TaskError(
        f'A run of optimizer "{name}" cannot be unrolled.', "Train with sgd, adam, adamw or rmsprop instead."
    )
