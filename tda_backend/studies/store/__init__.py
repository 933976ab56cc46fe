"""Artifacts on disk (the truth) and the DuckDB catalogue made from them."""
