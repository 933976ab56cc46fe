"""What a study says, as types: its sections, its configurations, and the checks of single values."""
