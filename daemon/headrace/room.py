"""
File descriptors: every connection is one, and who has none left can neither listen nor ask.

The soft limit is 1024 on most systems, for programs that still use select(2). None of ours does, so it is raised at the start.
"""

from __future__ import annotations

import resource

_KEPT_BACK = 256  # for Redis, files, the helper, and whatever a library opens
_LEAST = 16


def raise_descriptors() -> None:
    """Let this process have as many as its hard limit allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def connections_of(most: int) -> int:
    """Return how many connections a port may have of the *most* that are wanted: as many again may be to upstream."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return most if soft == resource.RLIM_INFINITY else min(most, max(_LEAST, (soft - _KEPT_BACK) // 2))
