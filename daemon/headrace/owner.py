"""
Whose a thing is that outlives its call: tickets, idempotency keys, usage, purges, kept answers, and what was made at upstream.

A caller's name tells who that is where names come with keys of ours. Where each caller's own key goes upstream
(`upstream.credentials = "caller"`), anybody may give any name: there whoever presents another key is another owner, and a key
stands here as its digest, never as itself.
"""

from __future__ import annotations

import functools
import hashlib
import re

from headrace.values import quick

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


@quick(frozen=True, slots=True)
class Owner:
    """
    Args:
        name: the caller's; "" for all callers together, of what they share.
        credential: the digest of its own key for upstream, in hex; "" where none goes there.
    """

    name: str
    credential: str = ""

    @classmethod
    def of(cls, name: str, credential: str) -> Owner:
        """Return the owner for a name, and the key itself that was presented with it ("" for none)."""
        if not credential:
            return _named(name)
        return cls(name, hashlib.sha256(credential.encode(errors="surrogateescape")).hexdigest())

    @property
    def text(self) -> str:
        """How Redis and the cache name it. No caller's name has a "#", so no two owners have the same text."""
        return f"{self.name}#{self.credential}" if self.credential else self.name


_named = functools.lru_cache(1024)(Owner)  # each call asks half a dozen times whose it is, and callers are few


def is_name(name: str) -> bool:
    """Whether *name* can be a caller's: 1 to 64 letters, digits, dots, underscores, hyphens."""
    return _NAME.fullmatch(name) is not None


def text_of(name: str, credential: str) -> str:
    """Return `Owner.of(name, credential).text`: for every call, most of which come with no key that goes upstream."""
    return Owner.of(name, credential).text if credential else name


def name_in(text: str) -> str:
    """Return the caller's name in an owner's text."""
    return text.partition("#")[0]
