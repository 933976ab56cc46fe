"""The command ``tda``, one file a verb. Imports inside functions keep its start quick."""
