"""The page counterfactuals."""
