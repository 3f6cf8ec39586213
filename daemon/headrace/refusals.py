"""
What Redis refuses just now, so that health and the log say so once, however often it is asked.

A refusal is news when it begins and when it is over: a command that has not been refused for a while is taken for allowed
again. So no success has to be looked at. What is refused for the state in which the server is (full, a replica) is over as soon
as it takes a write again; the link tries that now and then (`Link.probe`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from headrace import observe, replies

log = structlog.get_logger()

_OVER_S = 15.0  # every process writes at least every five seconds (budget/hosts.py)


@dataclass(frozen=True, slots=True)
class Refused:
    """What is refused ("EVALSHA", or a part that asks), and the code of the reply."""

    what: str
    code: str

    def __str__(self) -> str:
        return f"Redis refuses {self.what}: {self.code}"


@dataclass(frozen=True, slots=True)
class RefusalsStats:
    """What was refused of late, also what is one call's trouble alone."""

    refused: tuple[Refused, ...]


class Refusals:
    """
    The refusals of late; the link has one, and so has each part with connections of its own.

    Args:
        time: returns seconds that only go forward.
    """

    def __init__(self, time: Callable[[], float]) -> None:
        self._time = time
        self._last: dict[Refused, float] = {}

    def __repr__(self) -> str:
        return f"<Refusals [{', '.join(f'{each.what}: {each.code}' for each in self.stats().refused) or 'none'}]>"

    def stats(self) -> RefusalsStats:
        """Return its state now."""
        return RefusalsStats(tuple(self._last))

    def note(self, what: str, error: BaseException) -> None:
        """Remember that Redis refused something, and log it if that is new."""
        refused = Refused(what, replies.reason(error))
        if refused not in self._last:
            log.warning(observe.REDIS_REFUSED, what=refused.what, code=refused.code)
        self._last[refused] = self._time()

    @property
    def are_of_server(self) -> bool:
        """Whether something is refused for what the server is like now: full, a replica, loading."""
        return any(replies.is_away_code(refused.code) for refused in list(self._last))

    def forget_server(self) -> None:
        """Forget all that was refused for that: it has taken a write."""
        self._forget([refused for refused in list(self._last) if replies.is_away_code(refused.code)])

    def now(self) -> tuple[Refused, ...]:
        """Return what is refused now and concerns all calls: a foreign value in one key is that call's trouble alone."""
        self._forget([refused for refused, last in list(self._last.items()) if self._time() - last > _OVER_S])
        return tuple(refused for refused in list(self._last) if replies.concerns_all(refused.code))

    def _forget(self, over: list[Refused]) -> None:
        for refused in over:
            if self._last.pop(refused, None) is not None:
                log.info(observe.REDIS_ALLOWED, what=refused.what, code=refused.code)
