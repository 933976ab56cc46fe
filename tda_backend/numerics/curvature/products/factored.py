"""Products through rank-one factors of (pseudo-)gradients that are kept: a few matrix products for all vectors."""

from __future__ import annotations

import torch
from torch import Tensor

from tda_backend.blocks import block_size, spans
from tda_backend.numerics.curvature.products.base import CurvatureProduct
from tda_backend.numerics.curvature.pseudo_gradients import CurvatureKind, PseudoGradients
from tda_backend.numerics.features.factors import GradientFactors, linear_factors

_EXAMPLES = 1024


class FactorProduct(CurvatureProduct):
    """``(1/n) Σ_c J_cᵀ(J_c v)`` through rank-one factors: ``J_c v = Σ_layers δ_c·(V a)``."""

    def __init__(self, kind: CurvatureKind, pseudo: PseudoGradients, first: GradientFactors) -> None:
        super().__init__(kind, pseudo.parts[0])
        device = self.device
        self._names = [layer.name for layer in first.layers]
        # The inputs of a layer are the same for every c; positions become an axis of their own, [n, t, d].
        self._inputs = [_with_positions(layer.inputs).to(device) for layer in first.layers]
        deltas = [[_with_positions(layer.deltas).to(device) for layer in first.layers]]
        for part in pseudo.parts[1:]:
            factors, _ = linear_factors(part, "train", "train_loss")
            deltas.append([_with_positions(layer.deltas).to(device) for layer in factors.layers])
        self._deltas = [torch.stack(same, dim=1) for same in zip(*deltas, strict=True)]  # [n, C, t, d_out]

    def inner_products(self, vectors: Tensor) -> Tensor:
        """Return ⟨g_i, v⟩ of the first part, ``[q, n]``."""
        layers = self._views(vectors.to(self.device))
        parts = [self._coefficients(layers, self._select(rows)) for rows in self._chunks(None)]
        return torch.cat(parts)[:, :, 0].T

    def _product(self, vectors: Tensor, rows: Tensor | None) -> Tensor:
        vectors = vectors.to(self.device)
        layers = self._views(vectors)
        result = torch.zeros_like(vectors)
        sums = self._views(result)
        num = self.num_train if rows is None else len(rows)
        for chunk in self._chunks(rows):
            selected = self._select(chunk)
            coefficients = self._coefficients(layers, selected)  # [b, q, C]
            for (weight, bias), (a, d) in zip(sums, selected, strict=True):
                weighted = (coefficients @ d.flatten(2)).transpose(0, 1)  # [q, b, t·d_out]
                weighted = weighted.reshape(len(weighted), -1, d.shape[3])
                inner = a.flatten(0, 1)[:, : weight.shape[2]].expand(len(weight), -1, -1)
                weight.baddbmm_(weighted.mT, inner, alpha=1 / num)
                if bias is not None:
                    bias.add_(weighted.sum(1), alpha=1 / num)
        return result

    def _views(self, vectors: Tensor) -> list[tuple[Tensor, Tensor | None]]:
        """Return each layer's part of the vectors without copying: ``[q, d_out, d_in]`` and ``[q, d_out]``."""
        views = []
        for name, inputs in zip(self._names, self._inputs, strict=True):
            weight, bias = self.layout.layer_spans(name)
            width = inputs.shape[-1] - (bias is not None)
            views.append((vectors[:, weight].unflatten(1, (-1, width)), None if bias is None else vectors[:, bias]))
        return views

    def _chunks(self, rows: Tensor | None) -> list[slice] | list[Tensor]:
        if rows is not None:
            return list(rows.to(self.device).split(block_size(_EXAMPLES)))
        return list(spans(self.num_train, _EXAMPLES))

    def _select(self, rows: slice | Tensor) -> list[tuple[Tensor, Tensor]]:
        return [(a[rows], d[rows]) for a, d in zip(self._inputs, self._deltas, strict=True)]

    def _coefficients(
        self, layers: list[tuple[Tensor, Tensor | None]], selected: list[tuple[Tensor, Tensor]]
    ) -> Tensor:
        """Return ⟨g_ic, v⟩ of a chunk, ``[b, q, C]``."""
        total: Tensor | None = None
        for (weight, bias), (a, d) in zip(layers, selected, strict=True):
            inner = a.flatten(0, 1)[:, : weight.shape[2]].expand(len(weight), -1, -1)
            if bias is None:
                pushed = inner @ weight.mT  # [q, b·t, d_out]
            else:
                pushed = torch.baddbmm(bias[:, None], inner, weight.mT)
            pushed = pushed.view(len(weight), len(a), -1).transpose(0, 1)
            part = pushed @ d.flatten(2).mT
            total = part if total is None else total.add_(part)
        assert total is not None
        return total


def _with_positions(values: Tensor) -> Tensor:
    return values[:, None] if values.ndim == 2 else values
