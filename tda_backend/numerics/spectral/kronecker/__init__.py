"""Spectra in one Kronecker basis per layer."""
