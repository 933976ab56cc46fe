"""Training on examples that are selected while training, K steps looked ahead."""
