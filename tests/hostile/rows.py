"""
All attacks, each a row: `tests.hostile.attack` makes them, and this is what each needs of its house.

One house is enough for several in the short form; in the long form each has its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.hostile.neighbours import ATTACKS as NEIGHBOURS

INNOCENT = "innocent"


@dataclass(frozen=True, slots=True)
class Needs:
    """
    What a daemon is like.

    Args:
        settings: environment variables less their prefix.
        upstream: "odd" for one that means harm; "" for the simulator.
    """

    settings: Mapping[str, str] = field(default_factory=dict)
    upstream: str = ""


_PLAIN = Needs()
_NARROW = Needs({"LIMIT": '[{name = "mine", concurrency = 20, per = ["caller"]}]'})
_ODD = Needs(upstream="odd")

ROWS: Mapping[str, Needs] = {
    INNOCENT: _PLAIN,
    # Without a key, over HTTP.
    "packed": _PLAIN,
    "keyless": _PLAIN,
    "unfinished-heads": _PLAIN,
    "silent-bodies": _PLAIN,
    "connections-below": _PLAIN,
    "connections-above": _PLAIN,
    # Over gRPC; with a key where the name says so.
    "grpc-heads": _PLAIN,
    "grpc-heads-known": _PLAIN,
    "grpc-unfinished": _PLAIN,
    "grpc-unfinished-known": _PLAIN,
    "grpc-unfinished-spread": _PLAIN,
    "grpc-compressed": _PLAIN,
    "rapid-reset": _PLAIN,
    "rapid-reset-known": _PLAIN,
    "mixed-resets": _PLAIN,
    "few-resets": _PLAIN,
    "continuations": _PLAIN,
    "headers": _PLAIN,
    "control-frames": _PLAIN,
    "grpc-unread": _PLAIN,
    # Among callers.
    "unread": _PLAIN,
    "downloads": _PLAIN,
    "uploads": _PLAIN,
    "waiting": _NARROW,
    "text": _PLAIN,
    "keys": _PLAIN,
    "integers": _PLAIN,
    "nested": _PLAIN,
    "short-messages": _PLAIN,
    "many-bodies": _PLAIN,
    "slow-answers": _PLAIN,
    "grpc-bodies": _PLAIN,
    **dict.fromkeys(NEIGHBOURS, _PLAIN),
    # From the other sides.
    "odd-upstream": _ODD,
    "planted": _PLAIN,
}

# Neighbours of the others: they take as long as all of those, and show what those do.
LONG_ALONE = frozenset({
    "grpc-unfinished-spread", "mixed-resets", "few-resets", "nested", "short-messages", "many-bodies", "slow-answers",
    "grpc-bodies", *NEIGHBOURS,
})  # fmt: skip
SHORT_ROWS = tuple(name for name in ROWS if name not in LONG_ALONE)
