"""Sizes of equal parts."""

from __future__ import annotations


def largest_divisor(number: int, limit: int) -> int:
    """The largest divisor of `number` >= 1 that is at most `limit`; 1 where `limit` is less."""
    return next(d for d in range(max(min(number, limit), 1), 0, -1) if number % d == 0)
