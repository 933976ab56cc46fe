"""The page trajectory."""
