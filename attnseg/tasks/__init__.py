"""Floor 3: what a model is asked: inputs, loss, counts and their summary."""
