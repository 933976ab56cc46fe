"""Faults on purpose. ``make test`` takes a small sample of each kind, ``make torture`` many, and writes the report."""
