"""Floor 0: pure functions with their gradients, no parameters."""
