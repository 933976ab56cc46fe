"""Training a model to checkpoints, and retraining it on the subsets that LDS is measured against.

Nothing is imported here: a worker process must be able to start watching its parent before torch is loaded.
"""
