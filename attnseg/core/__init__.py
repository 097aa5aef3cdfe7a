"""Floor 0: names and checks everything else shares."""
