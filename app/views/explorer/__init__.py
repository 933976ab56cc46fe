"""The page explorer."""
