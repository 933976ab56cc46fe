"""``tda check``: does a task keep its contract?"""
