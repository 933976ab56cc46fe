"""Attribution along a training run: SOURCE, its preconditioned form, and HyDRA."""
