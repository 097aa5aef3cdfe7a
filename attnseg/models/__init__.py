"""Floor 2: networks and the one table of their names."""
