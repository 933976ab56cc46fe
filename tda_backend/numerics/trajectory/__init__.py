"""Attribution along a training run: SOURCE, HyDRA, exact unrolling, and look-ahead selection."""
