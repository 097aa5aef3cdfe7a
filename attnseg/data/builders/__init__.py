"""TFDS builders of attnseg; each prepares from encoded bytes, without TensorFlow."""
