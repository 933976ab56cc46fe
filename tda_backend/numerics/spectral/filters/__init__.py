"""Filters φ(σ; λ) on eigenvalues."""
