"""The kinds of step, and their table."""
