"""From features to spectra or scores, one module a family of methods."""
