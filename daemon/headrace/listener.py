"""
How a process hears nudges from the others: a connection of its own on which it only listens.

Every process has an inbox channel, and all share one. A message is "<topic> <payload>"; parts subscribe to topics. Nudges may
be lost (Redis promises nothing), so whoever waits for one also looks by itself now and then, and is told through `on_connect`
when this connection was down.

Silence is normal here, and so the connection itself is asked for a sign of life now and then: a middle box may have dropped
it without a word. A listener that fails makes nobody think that Redis is away: commands have their own connection, and nudges
only save time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import redis.asyncio as redis_asyncio
import structlog
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from headrace import observe, replies, servers
from headrace.clock import Clock

log = structlog.get_logger()

Handler = Callable[[bytes], None]

_AGAIN_S = 0.2
_AGAIN_REFUSED_S = 5.0  # until somebody has changed the ACL


@dataclass(frozen=True, slots=True)
class ListenerStats:
    """Whether nudges arrive, why not, and how often the connection was made."""

    is_listening: bool
    why: str
    connections: int


class Listener:
    """
    The listening connection. Run `run` as a task.

    Args:
        channels: what to subscribe to.
        timeout_s: how long Redis may take to connect, to subscribe and to give a sign of life.
        quiet_s: after how long a silence it is asked for one.
    """

    def __init__(self, url: str, channels: tuple[str, ...], clock: Clock, *, timeout_s: float, quiet_s: float) -> None:
        self._url = url
        self._channels = channels
        self._clock = clock
        self._timeout_s = timeout_s
        self._quiet_s = quiet_s
        self._handlers: dict[str, Handler] = {}
        self._on_connect: list[Callable[[], Awaitable[None]]] = []
        self._is_listening = asyncio.Event()
        self._why = ""
        self._connections = 0

    def __repr__(self) -> str:
        stats = self.stats()
        return f"<Listener [{'listening' if stats.is_listening else stats.why or 'deaf'}, {stats.connections} connections]>"

    def stats(self) -> ListenerStats:
        """Return its state now."""
        return ListenerStats(self.is_listening, self._why, self._connections)

    @property
    def is_listening(self) -> bool:
        """Whether nudges arrive, as far as we know."""
        return self._is_listening.is_set()

    async def listening(self) -> None:
        """Wait until nudges arrive."""
        await self._is_listening.wait()

    def on(self, topic: str, handler: Handler) -> None:
        """Call *handler* with the payload of every message on *topic*; it must not block."""
        if topic in self._handlers:
            raise ValueError(f"topic {topic!r} has a handler already")
        self._handlers[topic] = handler

    def on_connect(self, callback: Callable[[], Awaitable[None]]) -> None:
        """Call back after every (re)connection: nudges may have been missed."""
        self._on_connect.append(callback)

    async def run(self) -> None:
        """Receive nudges until cancelled, reconnecting as often as needed."""
        while True:
            try:
                await self._connected()
            except Exception as error:
                if replies.meaning(error) is replies.Meaning.OURS:
                    raise
                self._note_deaf(replies.reason(error))
                is_refused = replies.meaning(error) is replies.Meaning.REFUSED
                await self._clock.sleep(_AGAIN_REFUSED_S if is_refused else _AGAIN_S)

    async def _connected(self) -> None:
        # One connection, from its making to its end. No retries by the library: it would connect anew behind our back, and
        # nobody would be told that nudges may have been missed.
        options: dict[str, Any] = {} if self._url.startswith("unix:") else {"socket_keepalive": True}
        client = servers.client(
            self._url, socket_timeout=None, socket_connect_timeout=self._timeout_s, retry=Retry(NoBackoff(), 0), **options
        )
        try:
            async with client.pubsub() as inbox:
                await self._subscribe(inbox)
                self._note_listening()
                for callback in self._on_connect:
                    await callback()
                while True:
                    self._handle(await self._next(inbox))
        finally:
            self._is_listening.clear()
            with contextlib.suppress(redis_asyncio.RedisError, OSError):
                await client.aclose()

    async def _subscribe(self, inbox: Any) -> None:
        async with asyncio.timeout(self._timeout_s):  # by the loop: it is a socket's
            await inbox.subscribe(*self._channels)
            confirmed = 0
            while confirmed < len(self._channels):
                message = await inbox.get_message(timeout=self._timeout_s)
                confirmed += message is not None and message["type"] == "subscribe"

    async def _next(self, inbox: Any) -> Any:
        """Return the next message; a Redis that has none for a while must at least answer a ping."""
        message = await inbox.get_message(timeout=self._quiet_s)
        if message is not None:
            return message
        async with asyncio.timeout(self._timeout_s):  # by the loop: it is a socket's
            await inbox.ping()
            while (message := await inbox.get_message(timeout=self._timeout_s)) is None:
                pass
        return message

    def _handle(self, message: Any) -> None:
        if message["type"] != "message":
            return
        topic, _, payload = message["data"].partition(b" ")
        handler = self._handlers.get(topic.decode(errors="replace"))
        if handler is None:
            return
        try:
            handler(payload)
        except Exception as error:  # anybody may publish anything: it is one nudge that is lost, not the connection
            observe.BACKGROUND_FAILURES.inc("listener.handler")
            log.warning(observe.NUDGE_UNREADABLE, topic=topic.decode(errors="replace"), error=type(error).__name__)

    def _note_listening(self) -> None:
        if self._why:
            log.info(observe.LISTENER_BACK)
        self._why = ""
        self._connections += 1
        self._is_listening.set()

    def _note_deaf(self, why: str) -> None:
        # One line a state, not one a try.
        if not self._why:
            log.warning(observe.LISTENER_LOST, error=why)
        self._why = why
