"""From features and curvature to spectra or scores, one module per family."""
