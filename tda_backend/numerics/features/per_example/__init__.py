"""Per-example gradients of every parameter of a model with any layers, batch by batch, in one pass over the rows."""
