"""Products of vectors with a curvature that is never formed."""
