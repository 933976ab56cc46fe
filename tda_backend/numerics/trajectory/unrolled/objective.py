"""A task's losses as functions of one flat parameter vector, and the derivatives that unrolling needs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call, grad, jvp, vjp, vmap

from tda_backend.blocks import block_size
from tda_backend.models.probe import Probe
from tda_backend.models.tasks.contract import persons_code
from tda_backend.models.tasks.data import num_rows, take
from tda_backend.numerics.curvature.parameters import ParameterLayout, differentiable_attention
from tda_backend.numerics.curvature.targets import refuse_other_loss
from tda_backend.numerics.trajectory.unrolled.repeatable import check_repeatable
from tda_backend.types import Batch, Task

BatchCurvature = Literal["hessian", "gauss-newton", "fisher", "none"]
"""What stands for a batch's second derivative H_t: exact, generalised Gauss–Newton, empirical Fisher, or nothing."""
BATCH_CURVATURES: tuple[BatchCurvature, ...] = ("hessian", "gauss-newton", "fisher", "none")
_NUMBERS = 2**21
"""Numbers of vectors that are differentiated together (8 MiB of float32): more falls out of the caches."""
_ACTIVATIONS = 2**26
"""Numbers of activations beside them (256 MiB of float32): more takes memory and, on small networks, time."""
_CACHED = 2**21
"""Numbers that backpropagation saves for the examples that a processor differentiates together: with more, each step
of the derivatives is a tensor of megabytes, which falls out of the caches and takes fresh memory every time."""
_COPIES = 4
"""Numbers that a second derivative holds for each that backpropagation saves (measured: 3.7 to 4.4)."""
_WRONG_THIRD_DERIVATIVE = (nn.LayerNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
_DIFFERENCE = 6e-6
"""Cube root of the rounding of float64: the best step of a central difference, relative to the size of θ."""
_Function = Callable[[Tensor], Tensor]
_Curve = Callable[[Tensor, Tensor], tuple[Tensor, ...]]


class Objective:
    """Losses and goodness of one split as functions of θ ``[P]``.

    Args:
        task: Whose losses are differentiated.
        model: Gives the architecture, buffers and frozen parameters; cast to ``dtype`` and left otherwise alone.
        data: One split; floating-point tensors are cast to ``dtype``.
        dtype: Of θ and of everything that comes out.
        device: Where to compute.

    Raises:
        TaskError: The model draws random numbers or changes its buffers in training, so that a step is no function of
            θ and its batch.
    """

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        data: Batch,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        check_repeatable(task, model)
        self.task, self.dtype, self.device = task, dtype, torch.device(device)
        self.layout = ParameterLayout.of(model)
        self.model = model.to(self.device, dtype).eval()
        self.data = {
            key: value.to(self.device, dtype) if value.is_floating_point() else value.to(self.device)
            for key, value in data.items()
        }
        self._wrapped = _Wrapped(task, self.model)
        self._has_outputs = False

    @property
    def num_parameters(self) -> int:
        """P."""
        return self.layout.num_parameters

    @property
    def num_examples(self) -> int:
        """Number of examples of the split."""
        return num_rows(self.data)

    def theta(self) -> Tensor:
        """Return the model's own parameters, ``[P]``."""
        named = dict(self.model.named_parameters())
        return torch.cat([named[name].detach().flatten() for name in self.layout.names])

    def flat(self, state: Mapping[str, Tensor]) -> Tensor:
        """Return the trainable entries of a state dict as one vector, ``[P]``."""
        return torch.cat([state[name].to(self.device, self.dtype).flatten() for name in self.layout.names])

    def losses(self, theta: Tensor, rows: Tensor) -> Tensor:
        """Return each example's training loss, ``[b]``, or ``[R, b]`` for θ ``[R, P]``."""
        return self._values(theta, rows, "train_loss")

    def goodness(self, theta: Tensor, rows: Tensor) -> Tensor:
        """Return each example's goodness, ``[b]``, or ``[R, b]`` for θ ``[R, P]``."""
        return self._values(theta, rows, "goodness")

    def mean_gradient(self, theta: Tensor, rows: Tensor) -> Tensor:
        """Return ∇ of the batch's mean loss, ``[P]``."""
        batch = take(self.data, rows)
        with self._guard("train_loss"):
            return grad(lambda flat: self._call(flat, batch, "train_loss").mean())(theta)

    def weighted_gradients(self, thetas: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
        """Return ∇ Σ_i w_i ℓ_i of R models on one batch, ``[R, P]``; θ ``[R, P]``, weights ``[R, b]``."""

        def of(part: slice) -> tuple[Tensor, ...]:
            batch = take(self.data, rows[part])

            def total(flat: Tensor, weight: Tensor) -> Tensor:
                return (self._call(flat, batch, "train_loss") * weight).sum()

            return (vmap(grad(total), chunk_size=self._chunk(len(rows[part])))(thetas, weights[:, part]),)

        with self._guard("train_loss"):
            return self._summed(len(rows), of)[0]

    def example_gradients(
        self, theta: Tensor, rows: Tensor, quantity: Literal["train_loss", "goodness"] = "train_loss"
    ) -> Tensor:
        """Return each example's own gradient, ``[b, P]``."""
        batch = take(self.data, rows)

        def one(flat: Tensor, example: dict[str, Tensor]) -> Tensor:
            single = {key: value[None] for key, value in example.items()}
            return self._call(flat, single, quantity)[0]

        with self._guard(quantity):
            return vmap(grad(one), in_dims=(None, 0), chunk_size=self._chunk(1))(theta, batch)

    def curvature_product(self, theta: Tensor, rows: Tensor, vectors: Tensor, kind: BatchCurvature) -> Tensor:
        """Return H_t·v of the batch's mean loss for each of ``vectors`` ``[q, P]``, in the chosen curvature."""
        if kind == "none":
            return torch.zeros_like(vectors)
        if kind == "fisher":
            gradients = self.example_gradients(theta, rows)
            return (vectors @ gradients.T) @ gradients / len(rows)
        if kind == "gauss-newton":
            return self._gauss_newton(theta, rows, vectors)
        return self.hessian_product(theta, rows, vectors)

    def hessian_product(self, theta: Tensor, rows: Tensor, vectors: Tensor) -> Tensor:
        """Return ∇²(mean loss of the batch)·v, ``[q, P]``: forward over reverse mode, all vectors side by side."""

        def of(part: slice) -> tuple[Tensor, ...]:
            slope = self._share_of_slope(rows, part)
            one = vmap(lambda vector: jvp(slope, (theta,), (vector,))[1], chunk_size=self._chunk(len(rows[part])))
            return (one(vectors),)

        with self._guard("train_loss"):
            return self._summed(len(rows), of)[0]

    def example_hessian_products(self, theta: Tensor, rows: Tensor, vectors: Tensor) -> Tensor:
        """Return ∇²ℓ_i·v_i of each example with its own vector, ``[b, P]``."""
        batch = take(self.data, rows)

        def one(example: dict[str, Tensor], vector: Tensor) -> Tensor:
            single = {key: value[None] for key, value in example.items()}
            slope = grad(lambda flat: self._call(flat, single, "train_loss")[0])
            return jvp(slope, (theta,), (vector,))[1]

        with self._guard("train_loss"):
            return vmap(one, chunk_size=self._chunk(1))(batch, vectors)

    def curve_gradients(self, theta: Tensor, rows: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Return both derivatives of the batch's mean gradient along θ + t·first + ½t²·second at 0, ``[r, P]`` each.

        They are H·v and H·w + ∇³L[v, v] for each v of ``first`` and w of ``second`` ``[r, P]``: the derivative of
        (θ, v) ↦ H(θ)v along (v, w), forward mode twice over reverse mode. One pass; two products with H and ∇³L apart
        take 1.6 times as long, two products and a central difference of products as long as those (and are not exact).

        Central differences it is for models with a layer whose third derivative PyTorch gets wrong (``nn.LayerNorm``,
        ``nn.InstanceNorm``: 20 to 100 % off in 2.13, without a word; their second derivatives are right).
        """
        wrong = any(isinstance(module, _WRONG_THIRD_DERIVATIVE) for module in self.model.modules())
        curve = self._curve_by_differences if wrong else _exact_curve

        def of(part: slice) -> tuple[Tensor, ...]:
            one = curve(self._share_of_slope(rows, part), theta)
            return vmap(one, chunk_size=self._chunk(len(rows[part])))(first, second)

        with self._guard("train_loss"):
            found = self._summed(len(rows), of)
        return found[0], found[1]

    def _curve_by_differences(self, slope: _Function, theta: Tensor) -> _Curve:
        step = _DIFFERENCE * max(1.0, float(theta.norm()))

        def one(vector: Tensor, bend: Tensor) -> tuple[Tensor, ...]:
            length = vector.norm().clamp_min(torch.finfo(vector.dtype).tiny)
            unit = vector / length
            ahead, behind = (jvp(slope, (theta + way * step * unit,), (unit,))[1] for way in (1, -1))
            third = (ahead - behind) / (2 * step) * length.square()
            return jvp(slope, (theta,), (vector,))[1], jvp(slope, (theta,), (bend,))[1] + third

        return one

    def second_differences(self, theta: Tensor, rows: Tensor, vectors: Tensor) -> Tensor:
        """Return vᵀ∇²ℓ_i v of every example for each vector, ``[r, b]``: forward mode twice."""
        batch = take(self.data, rows)

        def one(vector: Tensor) -> Tensor:
            def slope(flat: Tensor) -> Tensor:
                return jvp(lambda inner: self._call(inner, batch, "train_loss"), (flat,), (vector,))[1]

            return jvp(slope, (theta,), (vector,))[1]

        with self._guard("train_loss"):
            return vmap(one, chunk_size=self._chunk(len(rows)))(vectors)

    def _gauss_newton(self, theta: Tensor, rows: Tensor, vectors: Tensor) -> Tensor:
        if not self._has_outputs:
            every = torch.arange(self.num_examples)
            refuse_other_loss(Probe(self.task, self.model, {"train": self.data}, every, device=self.device))
            self._has_outputs = True
        batch = take(self.data, rows)

        def outputs(flat: Tensor) -> Tensor:
            return self._call(flat, batch, "outputs")

        def mean_loss(values: Tensor) -> Tensor:
            return self.task.output_loss(values, batch).mean()

        with self._guard("outputs and output_loss"):
            found = vjp(outputs, theta)
            values, back = found[0], found[1]

            def one(vector: Tensor) -> Tensor:
                pushed = jvp(outputs, (theta,), (vector,))[1]
                return back(jvp(grad(mean_loss), (values,), (pushed,))[1])[0]

            return vmap(one, chunk_size=self._chunk(len(rows)))(vectors)

    def _share_of_slope(self, rows: Tensor, part: slice) -> _Function:
        """Return what some of the batch's examples add to the gradient of its mean loss, as a function of θ."""
        batch = take(self.data, rows[part])
        return grad(lambda flat: self._call(flat, batch, "train_loss").sum() / len(rows))

    def _summed(self, size: int, of: Callable[[slice], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """Return the sum over the parts of a batch of what ``of`` makes of each; a device takes the batch whole."""
        most = max(1, _CACHED // max(1, self._saved_per_example)) if self.device.type == "cpu" else size
        step = -(-size // max(1, -(-size // most)))  # parts as equal as can be
        total = of(slice(0, step))
        for start in range(step, size, step):
            total = tuple(a + b for a, b in zip(total, of(slice(start, start + step)), strict=True))
        return total

    def _values(self, theta: Tensor, rows: Tensor, what: str) -> Tensor:
        batch = take(self.data, rows)
        with self._guard(what), torch.no_grad():
            if theta.ndim == 1:
                return self._call(theta, batch, what)
            return vmap(lambda flat: self._call(flat, batch, what), chunk_size=self._chunk(len(rows)))(theta)

    def _call(self, theta: Tensor, batch: Mapping[str, Tensor], what: str) -> Tensor:
        shapes = self.layout.shapes
        parts = theta.split([shape.numel() for shape in shapes])
        named = {
            f"model.{name}": part.view(shape)
            for name, part, shape in zip(self.layout.names, parts, shapes, strict=True)
        }
        return functional_call(self._wrapped, named, (batch, what))

    def _chunk(self, examples: int) -> int:
        """Return how many vectors go side by side; each costs its own parameters and its own activations."""
        activations = max(1, _COPIES * examples * self._saved_per_example)
        return block_size(max(1, min(_NUMBERS // self.num_parameters, _ACTIVATIONS // activations)))

    @cached_property
    def _saved_per_example(self) -> int:
        """Numbers that backpropagation saves for one example, beside data and parameters."""
        batch, theta = take(self.data, torch.zeros(1, dtype=torch.long)), self.theta().requires_grad_()
        known = {value.untyped_storage().data_ptr() for value in (theta, *batch.values())}
        sizes: list[int] = []

        def note(saved: Tensor) -> Tensor:
            if saved.untyped_storage().data_ptr() not in known:
                sizes.append(saved.numel())
            return saved

        with self._guard("train_loss"), torch.enable_grad(), saved_tensors_hooks(note, lambda saved: saved):
            self._call(theta, batch, "train_loss")
        return sum(sizes)

    @contextlib.contextmanager
    def _guard(self, what: str) -> Iterator[None]:
        """Name a person's errors; choose attention that can be differentiated twice."""
        with persons_code(self.task, what), differentiable_attention():
            yield


def _exact_curve(slope: _Function, theta: Tensor) -> _Curve:
    def product(flat: Tensor, vector: Tensor) -> Tensor:
        return jvp(slope, (flat,), (vector,))[1]

    return lambda vector, bend: jvp(product, (theta, vector), (vector, bend))


class _Wrapped(nn.Module):
    """A task's quantities as the forward pass of a module, so that ``functional_call`` can swap parameters."""

    def __init__(self, task: Task, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._task = task

    def forward(self, batch: Batch, what: str) -> Tensor:
        if what == "goodness":
            return self._task.measurement_sign * self._task.measurement(self.model, batch)
        return getattr(self._task, what)(self.model, batch)
