"""
What message batches used: read out of their results as those pass by, and counted once.

    results.py   what the results of a batch say was used; pure
    counted.py   whose batch it is, and that it is counted once, by whichever daemon

A batch is only carried: upstream works on it when it will, and says what it used in its results and nowhere else. So what is
never fetched through us, nobody here knows.
"""

from __future__ import annotations

from headrace.batches.counted import Batches

__all__ = ["Batches"]
