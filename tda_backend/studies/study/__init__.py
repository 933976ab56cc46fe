"""The study file, from text to typed objects."""
