"""
Whether one thread of the worker reaches Redis, told once a state: when it is lost, when the reason changes, when it is back.
"""

from __future__ import annotations

import redis
import structlog

from headrace import observe, replies
from headrace.replies import Meaning

log = structlog.get_logger()


class Contact:
    """
    A thread's contact to Redis.

    Args:
        part: the thread, as log lines call it.
        why: what is to be said before there was any contact.
    """

    def __init__(self, part: str, client: redis.Redis, *, why: str = "") -> None:
        self._part = part
        self._client = client
        self._said = ""
        self.why = why
        """Why there is none, as health says it; "" while all is well."""

    def __repr__(self) -> str:
        return f"<Contact {self._part} [{self.why or 'well'}]>"

    def made(self) -> None:
        """Say that Redis did what it was asked."""
        if self._said:
            log.info(observe.REDIS_BACK, part=self._part)
        self._said = self.why = ""

    def lost(self, error: Exception) -> None:
        """Say by which error contact was lost; what is no word of Redis is a fault of ours."""
        what, self.why = replies.meaning(error), replies.reason(error)
        drop(self._client, error)
        if self._said == self.why:
            return
        self._said = self.why
        if what is Meaning.OURS:
            log.error(observe.WORKER_CRASHED, part=self._part, error=self.why, exc_info=error)
        elif what is Meaning.REFUSED:
            log.warning(observe.REDIS_REFUSED, what=self._part, code=self.why)
        else:
            log.warning(observe.REDIS_LOST, part=self._part, error=self.why)


def drop(client: redis.Redis, error: BaseException) -> None:
    """Give a client's connections up if they lead to a server that cannot serve us: redis-py would keep them for ever."""
    if replies.meaning(error) is Meaning.NOT_HERE:
        client.connection_pool.disconnect(inuse_connections=False)
