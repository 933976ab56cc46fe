"""The page selection."""
