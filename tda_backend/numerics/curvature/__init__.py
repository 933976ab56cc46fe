"""The curvature of the training loss: its products with vectors, its matrix and its Kronecker factors."""
