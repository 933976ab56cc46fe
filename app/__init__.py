"""The dashboard: what a person sees of a study. It reads through :mod:`tda_backend.runs` and never touches tensors."""
