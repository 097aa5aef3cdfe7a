"""Backbones: images [n h w 3] to `Features`."""
