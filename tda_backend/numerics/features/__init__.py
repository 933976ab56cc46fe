"""Per-example gradients as rank-one factors, their Gram matrices and their random projections."""
