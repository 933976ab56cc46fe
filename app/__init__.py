"""The dashboard: what a person sees of a study. It reads through ``tda_backend.interfaces`` and touches no tensors."""
