"""Exact unrolling of a training run through its optimizer: AdamW-influence, its error, and look-ahead selection.

Everything here works on one flat axis of all trainable parameters, P, in the order of ``named_parameters``
(METHODS.md §6; *How Faithful Is Trajectory-Based Data Attribution?*, arXiv 2605.18814).
"""
