"""The page papers."""
