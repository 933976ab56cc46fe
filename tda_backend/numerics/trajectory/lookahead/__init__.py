"""Selection while training: K steps looked ahead."""
