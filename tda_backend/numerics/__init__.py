"""Pure tensors in and out: features, spectra, curvature, attribution, trajectories and their evaluation."""
