"""What every method and every kind of claim promises; the tables of both are filled by their own packages."""
