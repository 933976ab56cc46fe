"""Training many models on subsets of the data. Nothing is imported here: workers start before torch is loaded."""
