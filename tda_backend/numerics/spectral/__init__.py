"""Filters on eigenvalues and what is contracted with them: pure tensors in, pure tensors out."""
