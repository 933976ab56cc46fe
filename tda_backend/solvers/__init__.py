"""Products with the curvature, and the iterative solvers of influence functions as they were published."""
