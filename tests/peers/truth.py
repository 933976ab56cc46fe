"""Dense float64 references for the compared cases: slow, obviously right, independent of the library's fast routes.

They settle who is right where a peer and the library differ. All orientations are ours: ``[m, n]``, positive helps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from tda_backend.models.tasks import margin


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of each row."""
    return F.cross_entropy(logits, labels, reduction="none")


def gradients(model: nn.Module, rows: tuple[Tensor, Tensor], of: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return the gradient of ``of(logits, labels)`` for each example, ``[N, p]``, in the order of ``parameters()``."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def one(values: Mapping[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return of(functional_call(model, dict(values), x[None]), y[None])[0]

    found = vmap(grad(one), (None, 0, 0))(parameters, *rows)
    return torch.cat([found[name].flatten(1) for name in parameters], 1).detach()


def layer_gradients(model: nn.Module, flat: Tensor) -> dict[str, Tensor]:
    """Return gradients by Linear layer as ``[N, out, in + 1]``: the bias is the last column."""
    found, start = {}, 0
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear):
            size = layer.out_features * layer.in_features
            weight = flat[:, start : start + size].unflatten(1, (layer.out_features, layer.in_features))
            bias = flat[:, start + size : start + size + layer.out_features, None]
            found[name] = torch.cat([weight, bias], 2)
            start += size + layer.out_features
    return found


def kronecker_pairs(model: nn.Module, rows: tuple[Tensor, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return by Linear layer its inputs with a one ``[N, in + 1]`` and loss gradients at its outputs ``[N, out]``."""
    inputs, outputs, handles = {}, {}, []
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear):

            def keep(_: nn.Module, given: tuple[Tensor, ...], out: Tensor, name: str = name) -> None:
                inputs[name] = torch.cat([given[0], torch.ones_like(given[0][:, :1])], 1).detach()
                outputs[name] = out

            handles.append(layer.register_forward_hook(keep))
    total = loss(model(rows[0]), rows[1]).sum()
    for handle in handles:
        handle.remove()
    deltas = torch.autograd.grad(total, list(outputs.values()))
    return {name: (inputs[name], delta) for name, delta in zip(outputs, deltas, strict=True)}


def kronecker_truth(
    model: nn.Module, train: tuple[Tensor, Tensor], labels: Tensor, strategy: str, damping: float | None
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return ``(queries, train) → Σ_ℓ q_ℓᵀ(H_ℓ+λ)⁻¹g_ℓ`` ``[m, n]`` by EK-FAC, K-FAC or the diagonal.

    ``labels`` are those at which curvature is taken. EK-FAC: Λ = E[(Q_SᵀGQ_A)²]; K-FAC: Λ = d_S d_Aᵀ; diagonal: the
    mean square of each entry (METHODS.md §3; Grosse et al. 2023, §2.2). ``damping=None`` is 0.1·mean(Λ) of the layer.
    """
    pairs = kronecker_pairs(model, (train[0], labels))
    bases, weights = {}, {}
    for name, (inputs, deltas) in pairs.items():
        values_a, basis_a = torch.linalg.eigh(inputs.T @ inputs / len(inputs))
        values_s, basis_s = torch.linalg.eigh(deltas.T @ deltas / len(deltas))
        if strategy == "diagonal":
            basis_a, basis_s = torch.eye(len(basis_a)).to(basis_a), torch.eye(len(basis_s)).to(basis_s)
        if strategy == "kfac":
            curvature = values_s[:, None] * values_a
        else:
            curvature = ((deltas @ basis_s) ** 2).T @ ((inputs @ basis_a) ** 2) / len(inputs)
        bases[name] = (basis_s, basis_a)
        weights[name] = 1 / (curvature + (0.1 * curvature.mean() if damping is None else damping))

    def product(queries: Tensor, others: Tensor) -> Tensor:
        total = torch.zeros(len(queries), len(others), dtype=queries.dtype)
        theirs = layer_gradients(model, others)
        for name, block in layer_gradients(model, queries).items():
            basis_s, basis_a = bases[name]
            solved = basis_s @ ((basis_s.T @ block @ basis_a) * weights[name]) @ basis_a.T
            total += solved.flatten(1) @ theirs[name].flatten(1).T
        return total

    return product


def hessian_product(model: nn.Module, train: tuple[Tensor, Tensor]) -> Callable[[Tensor], Tensor]:
    """Return ``V [q, p] → VH`` with H the Hessian of the mean training loss."""
    parameters = list(model.parameters())
    total = loss(model(train[0]), train[1]).mean()
    first = torch.cat([g.flatten() for g in torch.autograd.grad(total, parameters, create_graph=True)])

    def product(vectors: Tensor) -> Tensor:
        rows = []
        for vector in vectors:
            second = torch.autograd.grad(first, parameters, vector, retain_graph=True)
            rows.append(torch.cat([g.flatten() for g in second]))
        return torch.stack(rows)

    return product


def conjugate_gradient(
    product: Callable[[Tensor], Tensor], right: Tensor, regularization: float, max_iter: int
) -> Tensor:
    """Return ``max_iter`` textbook steps for (H+λI)x = v from x₀ = v, each row alone, without a stopping rule."""
    solution = right.clone()
    residual = right - product(solution) - regularization * solution
    direction, square = residual.clone(), (residual**2).sum(1, keepdim=True)
    for _ in range(max_iter):
        image = product(direction) + regularization * direction
        step = square / (direction * image).sum(1, keepdim=True)
        solution, residual = solution + step * direction, residual - step * image
        before, square = square, (residual**2).sum(1, keepdim=True)
        direction = residual + square / before * direction
    return solution


def hessian(model: nn.Module, train: tuple[Tensor, Tensor]) -> Tensor:
    """Return the Hessian of the mean training loss, ``[p, p]``."""
    size = sum(p.numel() for p in model.parameters())
    return hessian_product(model, train)(torch.eye(size, dtype=train[0].dtype))


__all__ = [
    "conjugate_gradient",
    "gradients",
    "hessian",
    "hessian_product",
    "kronecker_truth",
    "layer_gradients",
    "loss",
    "margin",
]
