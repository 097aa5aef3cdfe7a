"""From an image of any size to a class for each of its pixels, with memory bounded by the tile."""
