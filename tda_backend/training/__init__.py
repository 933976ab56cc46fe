"""Old address of :mod:`tda_backend.models`, kept for people's own task files."""
