"""Floor 1: linen blocks, from convolution to attention."""
