"""Products with the curvature of the **mean** training loss, never p × p, streamed over examples.

======================  ============================================================  ==============================
curvature               C                                                             C·v of a batch
======================  ============================================================  ==============================
``hessian``             (1/n) Σ ∇²ℓ_i                                                 double backward pass
``ggn``                 (1/n) Σ J_iᵀ (∇²ℓ_i in the outputs) J_i                       Jᵀ(H_out(J v))
``empirical-fisher``    (1/n) Σ g_i g_iᵀ                                              Jᵀ(J v), J the losses' Jacobian
``true-fisher``         the same with labels drawn from the model                     the same
======================  ============================================================  ==============================

Models made of plain Linear layers keep rank-one factors of the (pseudo-)gradients once; a product is then a few
matrix products for all vectors together. Any other model is differentiated anew for each product.
"""

from __future__ import annotations

from torch import Tensor

from tda_backend.errors import NumericalError, TaskError, UsageError
from tda_backend.finite import all_finite
from tda_backend.models.probe import Probe
from tda_backend.numerics.curvature.parameters import differentiable_attention
from tda_backend.numerics.curvature.products.base import CurvatureProduct, KnowsGradients
from tda_backend.numerics.curvature.products.factored import FactorProduct
from tda_backend.numerics.curvature.products.streamed import HessianProduct, OutputProduct, ScalarProduct
from tda_backend.numerics.curvature.pseudo_gradients import Curvature, pseudo_gradients
from tda_backend.numerics.curvature.targets import refuse_other_loss
from tda_backend.numerics.features.factors import linear_factors, untracked_parameters

_FACTOR_NUMBERS = 2**27
"""Numbers (512 MiB of float32) that the deltas of all pseudo-gradients may take before they are not kept."""


def curvature_product(probe: Probe, curvature: Curvature) -> CurvatureProduct:
    """Return the product with the curvature of the mean training loss; it does not depend on the batch size.

    Args:
        probe: Loss, model at the checkpoint and train rows, n; for ggn and true-fisher also the task's outputs.
        curvature: Which one.

    Raises:
        TaskError: The task lacks what the kind needs, or there are no examples.
        NumericalError: A gradient or output is not finite.
        UsageError: The probe's precision is less than float32, and the product differentiates the model anew.
    """
    if probe.count("train") == 0:
        raise TaskError("There are no train examples.", "Give at least one index.")
    probe.model.to(probe.device)
    kind = curvature.kind
    factored = not untracked_parameters(probe.model)
    if kind == "hessian":
        return HessianProduct(probe)
    if kind == "ggn" and not factored:
        refuse_other_loss(probe)
        return OutputProduct(probe)
    pseudo = pseudo_gradients(probe, curvature)
    if factored:
        first, _ = linear_factors(pseudo.parts[0], "train", "train_loss")
        numbers = sum(layer.deltas.numel() for layer in first.layers)
        if numbers * len(pseudo.parts) <= _FACTOR_NUMBERS:
            return FactorProduct(kind, pseudo, first)
        if kind == "ggn":
            return OutputProduct(probe)
    return ScalarProduct(kind, pseudo)


def loss_gradient_products(product: CurvatureProduct, vectors: Tensor) -> Tensor:
    """Return ⟨∇ℓ_i, v⟩ from an empirical Fisher's product, ``[q, n]`` on the product's device.

    Raises:
        UsageError: The product is of another kind.
        NumericalError: A value is not finite.
    """
    if product.kind != "empirical-fisher" or not isinstance(product, KnowsGradients):
        raise UsageError(f"Loss gradients are not known to the {product.name}.", "Give the empirical Fisher's product.")
    with differentiable_attention():
        values = product.inner_products(vectors.to(product.dtype))
    if not all_finite(values):
        raise NumericalError(
            f"Inner products with the loss gradients of the {product.name} are not finite.",
            "Look for NaN in the gradients, or use a larger λ.",
        )
    return values
