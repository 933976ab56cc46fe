"""What is attributed and how it is trained. Nothing is imported here: a worker process must watch its parent before
torch is loaded.
"""
