"""Kronecker-factored curvature: moments A and S per layer, their eigenbasis, corrected eigenvalues, rotated gradients.

For a layer with per-example gradient ``∇W_i = Σ_t δ_it a_itᵀ`` (t over positions, a with a homogeneous 1):

* ``A = mean_i Σ_t a_it a_itᵀ``, ``S = mean_i (1/T) Σ_t δ_it δ_itᵀ``, so that ``S ⊗ A`` estimates the curvature
  ``mean_i vec(∇W_i) vec(∇W_i)ᵀ`` on its own scale (K-FAC, Martens & Grosse 2015; for several positions KFC's
  independence of positions, Grosse & Martens 2016). kronfluence divides A by T too: same eigenvectors and same
  EK-FAC, but a K-FAC curvature T times smaller.
* ``A = Q_A D_A Q_Aᵀ``, ``S = Q_S D_S Q_Sᵀ``; a gradient in the basis is ``Q_Sᵀ ∇W Q_A``.
* ``Λ = mean_i (Q_Sᵀ ∇W_i Q_A)^{∘2}`` (EK-FAC, George et al. 2018); K-FAC has ``Λ = D_S ⊗ D_A``; the diagonal
  approximation is EK-FAC in the basis Q = I.

The Fisher information is *true* when targets are drawn from the model itself, *empirical* with the targets of the data
(Grosse et al. 2023, §2.4). Everything here is independent of batch size and example order: targets are drawn from a
seed hashed from each example's index.
"""
