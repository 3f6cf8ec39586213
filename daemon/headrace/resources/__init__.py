"""
Whose what lives at upstream is: batches, files, skills, containers, and whatever else is made there with our one key.

    places.py   what a path is about, and for how long upstream keeps such a thing; pure
    ids.py      the ids of things in bodies and answers; pure
    scan.py     the same in a body that goes by; pure
    listing.py  a list with only one's own in it, page by page; pure
    owners.py   who made what, in Redis
    guard.py    what follows for a call: what it may name, and what it has made

Upstream knows one organisation, and shows everything to everybody who has our key. So who makes a thing is recorded, and to
other callers it is not there: by its path, in lists, and inside bodies. What nobody made through us is nobody's but an admin's.
"""

from __future__ import annotations

from headrace.resources.guard import Guard, Visit
from headrace.resources.listing import said_of_own
from headrace.resources.owners import Owners

__all__ = ["Guard", "Owners", "Visit", "said_of_own"]
