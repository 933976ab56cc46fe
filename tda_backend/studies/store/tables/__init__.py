"""The tables of the catalogue, each declared once."""
