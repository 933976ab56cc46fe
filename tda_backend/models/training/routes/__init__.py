"""How one run is trained: mini-batches, stacked models, stages, or the exact optimum."""
