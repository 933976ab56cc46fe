"""The page sensitivity."""
