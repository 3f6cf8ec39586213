"""
In tune with upstream: what it says of its limits and of its state, put to use.

    heed.py      the head of an answer, and how much a bucket may hold by it; pure
    words.py     the latest word on each model class, carried to the buckets with the next settlement
    learned.py   limits that nobody configured, learnt from heads, the same for all daemons
    account.py   the same from upstream's own list, given an admin key
    organisation.py  that list, for limits that are configured: they are held at no more
    overload.py  what an attempt says of its model class, for the gate that all daemons share
    tuner.py     all of it, for the schedule and the client

The arithmetic of buckets and gates is the ledger's (budget/bucket.py, budget/gate.py).
"""

from __future__ import annotations

from headrace.tuning.tuner import Tuner

__all__ = ["Tuner"]
