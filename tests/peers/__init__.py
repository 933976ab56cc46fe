"""Comparisons with other tools of the field at pinned versions: values that they gave, and how they were made."""
