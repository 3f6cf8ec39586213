"""
How a daemon stands: why it should not be asked, and what it lacks though it can be.

Without Redis a daemon goes on where each limit says what holds then (`on_redis_loss` is "open" or "share"): it is ready, and
says that it is degraded. Where one is "closed", or there is no limit that says anything, it is not ready: another host may have
its Redis.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

Check = tuple[bool, str]  # whether it is so, and what is said then


class Lossy(Protocol):
    """What this needs of a limit."""

    @property
    def on_redis_loss(self) -> str:
        """What holds while Redis is away."""

    @property
    def shadow(self) -> bool:
        """Whether it only counts."""


@dataclass(frozen=True, slots=True)
class Condition:
    """Why it should not be asked, and what it lacks though it can be: a line each."""

    wrong: list[str] = field(default_factory=list)
    degraded: list[str] = field(default_factory=list)


def condition(limits: Sequence[Lossy], *, wrong: Iterable[Check], without_redis: Iterable[Check]) -> Condition:
    """
    Return how a daemon stands.

    Args:
        limits: those of the configuration.
        wrong: what keeps it from being asked.
        without_redis: what is so while Redis cannot be used.
    """
    stops, lacks = ([said for is_so, said in checks if is_so] for checks in (wrong, without_redis))
    if goes_on(limits):
        return Condition(stops, [f"degraded: {said}" for said in lacks])
    return Condition(stops + lacks)


def goes_on(limits: Sequence[Lossy]) -> bool:
    """Whether calls are taken while Redis is away, by limits that hold all the same."""
    held = [limit for limit in limits if not limit.shadow]
    return bool(held) and all(limit.on_redis_loss != "closed" for limit in held)
