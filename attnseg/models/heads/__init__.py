"""Heads: `Features` to logits. No head knows a backbone."""
