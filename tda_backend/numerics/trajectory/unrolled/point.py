"""One training step linearised: how a change of gradient and state passes through it, forwards and backwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tda_backend.numerics.trajectory.unrolled.clipping import Clip


@dataclass(frozen=True)
class Slot:
    """What one state vector does: s' = β·s + c(ĝ).

    Attributes:
        decay: β.
        effect: ∂u/∂s', ``[P]`` or one number.
        intake: c'(ĝ), ``[P]`` or one number.
    """

    decay: float
    effect: Tensor | float
    intake: Tensor | float


@dataclass(frozen=True)
class Curvatures:
    """Second derivatives of an update, in float64 (they go with v̂^(−3/2)); what is missing is 0.

    Attributes:
        slot: c''(ĝ) of each slot.
        mixed: ∂²u/∂s'_i∂s'_j by (i, j) with i < j, ``[P]``.
        pure: ∂²u/∂s'_j² by j, ``[P]``.
        with_gradient: ∂²u/∂ĝ∂s'_j by j, ``[P]``.
    """

    slot: tuple[float, ...] = ()
    mixed: Mapping[tuple[int, int], Tensor] = field(default_factory=dict)
    pure: Mapping[int, Tensor] = field(default_factory=dict)
    with_gradient: Mapping[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Point:
    """The linearisation of one step. Augmented vectors are ``[q, 1+s, P]``: θ first, then the slots.

    The change of the gradient that a change of θ brings (the curvature H_t) is the caller's: it adds H_t·cov to
    ``passed[:, 0]`` going backwards, and H_t·δθ to δg going forwards.

    Attributes:
        rate: η.
        shrink: κ.
        coupled: ω where decay joins the gradient, else 0.
        clip: Derivatives of clipping, ``None`` where this step was not clipped.
        direct: ∂u/∂ĝ at fixed s'.
        slots: One per state vector.
        curvatures: For second order.
    """

    rate: float
    shrink: float
    coupled: float
    clip: Clip | None
    direct: Tensor | float
    slots: tuple[Slot, ...]
    curvatures: Curvatures

    def pull(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return (cov, passed): u times the response to a change of g, and u times the transition without curvature.

        cov = U R_t of METHODS.md §6. Removing g_z from the gradient changes what u looks at by −cov·g_z.

        Args:
            u: Row vectors ``[q, 1+s, P]``.

        Returns:
            ``[q, P]`` and ``[q, 1+s, P]``.
        """
        passed = u.clone()
        return self.pull_(passed), passed

    def pull_(self, u: Tensor) -> Tensor:
        """As :meth:`pull`, with ``passed`` written over ``u``; return cov."""
        ahead = u[:, 0]
        cov = None if _is_zero(self.direct) else ahead * (-self.rate * self.direct)
        for number, slot in enumerate(self.slots, start=1):
            towards = u[:, number]
            if isinstance(slot.effect, Tensor):
                towards.addcmul_(ahead, slot.effect, value=-self.rate)
            else:
                towards.add_(ahead, alpha=-self.rate * slot.effect)
            if cov is None:
                cov = towards * slot.intake
            elif isinstance(slot.intake, Tensor):
                cov.addcmul_(towards, slot.intake)
            else:
                cov.add_(towards, alpha=slot.intake)
            towards.mul_(slot.decay)
        assert cov is not None  # every update looks at its gradient, at once or through a slot
        if self.shrink != 1.0:
            ahead.mul_(self.shrink)
        if self.coupled:
            ahead.add_(cov, alpha=self.coupled)
        return cov if self.clip is None else self.clip.apply(cov)

    def push(self, change: Tensor, gradient: Tensor) -> Tensor:
        """Return the first-order change after the step, ``[r, 1+s, P]``.

        Args:
            change: δ of (θ, s) before the step, ``[r, 1+s, P]``.
            gradient: δg of the raw mean gradient, ``[r, P]``: the caller's H_t·δθ included.
        """
        return self._push(change, self._first(change, gradient), ())

    def push_second(self, change: Tensor, second: Tensor, gradient: Tensor, gradient_second: Tensor) -> Tensor:
        """Return the second-order change δ² after the step, ``[r, 1+s, P]`` (the second derivative, no ½ in it).

        Args:
            change: δ before the step.
            second: δ² before the step.
            gradient: δg.
            gradient_second: δ²g.
        """
        first = self._first(change, gradient)
        effective = gradient_second if self.clip is None else self.clip.second(gradient, gradient_second)
        if self.coupled:
            effective = torch.add(effective, second[:, 0], alpha=self.coupled)
        squares = [bend * first.square() if bend else None for bend in self.curvatures.slot]
        after = self._push(second, effective, squares)
        new = [
            torch.addcmul(change[:, number] * slot.decay, first, _vector(slot.intake, first))
            for number, slot in enumerate(self.slots, start=1)
        ]
        bent = torch.zeros_like(first)
        for (one, other), values in self.curvatures.mixed.items():
            bent.add_(2.0 * _product(values, new[one], new[other]))
        for one, values in self.curvatures.pure.items():
            bent.add_(_product(values, new[one], new[one]))
        for one, values in self.curvatures.with_gradient.items():
            bent.add_(2.0 * _product(values, new[one], first))
        after[:, 0].sub_(bent, alpha=self.rate)
        return after

    def _first(self, change: Tensor, gradient: Tensor) -> Tensor:
        effective = gradient if self.clip is None else self.clip.apply(gradient)
        return torch.add(effective, change[:, 0], alpha=self.coupled) if self.coupled else effective

    def _push(self, change: Tensor, effective: Tensor, extra: tuple[()] | list[Tensor | None]) -> Tensor:
        after = torch.empty_like(change)
        towards = torch.zeros_like(effective) if _is_zero(self.direct) else effective * self.direct
        for number, slot in enumerate(self.slots, start=1):
            new = torch.mul(change[:, number], slot.decay, out=after[:, number])
            new.addcmul_(effective, _vector(slot.intake, effective))
            if extra:
                more = extra[number - 1]
                if more is not None:
                    new.add_(more)
            towards.addcmul_(new, _vector(slot.effect, effective))
        torch.mul(change[:, 0], self.shrink, out=after[:, 0])
        after[:, 0].sub_(towards, alpha=self.rate)
        return after


def _product(values: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """Return values·one·other in ``one``'s precision, multiplied in that of ``values``."""
    return (values * one * other).to(one.dtype)


def _is_zero(value: Tensor | float) -> bool:
    return not isinstance(value, Tensor) and value == 0


def _vector(value: Tensor | float, like: Tensor) -> Tensor:
    return value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=like.dtype, device=like.device)
