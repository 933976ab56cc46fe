"""Benchmarks: measured ratios, kept apart from the tests. `make bench` runs them all."""
