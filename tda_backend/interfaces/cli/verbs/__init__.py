"""The verbs of ``tda``: a file each, with its arguments and what it does."""
