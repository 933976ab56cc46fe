"""Tasks, their data and models, training to checkpoints, and the retraining of subsets that LDS is measured against.

Nothing is imported here: a worker process must be able to start watching its parent before torch is loaded.
"""
