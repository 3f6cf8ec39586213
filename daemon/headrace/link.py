"""
The link to Redis: one client a process, shared by every part that keeps state there.

Commands issued in the same turn of the event loop leave together, in order, in one pipeline. So the parts stay apart (the
ledger settles, the cache stores, the flight lands, each by its own script) and a finished call still costs one round trip;
and under load many calls share a round trip, which more than doubles what one connection carries.

What a round trip costs is mostly the client's own work, so batches go over bare connections of the library (its pool and
pipeline spend 300 us on a command, measured; the bare connection 60), and few of them: while all are busy, the next batch
grows.

A broken connection is tried once more, so everything that is sent must be harmless when it arrives twice: our scripts carry
ids, stream items explicit positions. Failures come out as `RedisAway`; what that means is each part's own policy.

The link also listens: every process has an inbox channel, and all share one. A message is "<topic> <payload>"; parts
subscribe to topics. Nudges may be lost (Redis promises nothing), so whoever waits for one also looks by itself now and then,
and is told through `on_connect` when the link was down.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import hiredis
import redis.asyncio as redis_asyncio
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MasterDownError, NoScriptError, OutOfMemoryError, ReadOnlyError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from headrace import keys
from headrace.errors import RedisAway

Handler = Callable[[bytes], None]

_GONE = (RedisConnectionError, RedisTimeoutError, OSError)  # asyncio's TimeoutError is an OSError too
_NOT_READY = (ReadOnlyError, MasterDownError)  # another one is the master now; LOADING counts as a broken connection
_NO_WRITES = ("MISCONF", "NOREPLICAS", "OOM")
_MAX_BATCH = 256


class Script:
    """A Lua script that ships beside the module that runs it."""

    def __init__(self, package: str, filename: str) -> None:
        self.name = filename
        self.text = resources.files(package).joinpath(filename).read_text()
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    def __repr__(self) -> str:
        return f"<Script {self.name}>"


@dataclass(slots=True)
class _Command:
    words: tuple[Any, ...]
    reply: asyncio.Future[Any]
    script: Script | None


class Link:
    """
    A shared, pipelined connection to Redis. `run` and `do` raise `RedisAway` when it cannot be reached.

    Args:
        url: redis://, rediss:// or unix://.
        timeout_s: how long one round trip may take before Redis counts as away.
    """

    def __init__(self, url: str, *, timeout_s: float = 2.0, max_connections: int = 4) -> None:
        self.instance = f"{socket.gethostname()}-{os.getpid()}-{os.urandom(4).hex()}"
        self.inbox = keys.inbox(self.instance)
        self._url = url
        self._timeout_s = timeout_s
        # No time-out inside the connection: one around a whole batch is cheaper than one around each reply.
        self._pool = redis_asyncio.ConnectionPool.from_url(url, socket_timeout=None, socket_connect_timeout=timeout_s)
        self._max_connections = max_connections
        self._idle: list[AbstractConnection] = []
        self._batch: list[_Command] = []
        self._flushes: set[asyncio.Task[None]] = set()
        self._handlers: dict[str, Handler] = {}
        self._on_connect: list[Callable[[], Awaitable[None]]] = []
        self._listening = asyncio.Event()
        self._away_since: float | None = None
        self._is_closed = False
        self.round_trips = 0

    def __repr__(self) -> str:
        state = "away" if self._away_since else "up"
        return f"<Link [{state}, {len(self._batch)} to send, {len(self._flushes)} in the air]>"

    @property
    def is_up(self) -> bool:
        """Whether the last round trip succeeded (and no listening link is known to be broken)."""
        return self._away_since is None

    def run(self, script: Script, names: Sequence[str], args: Sequence[Any]) -> asyncio.Future[Any]:
        """Run a script by its hash; Redis that has forgotten it is told it again. Sent even if nobody awaits it."""
        return self._enqueue(("EVALSHA", script.sha, len(names), *names, *args), script)

    def do(self, *command: Any) -> asyncio.Future[Any]:
        """Run one command. Replies are bytes, integers and lists, as Redis sends them."""
        return self._enqueue(command, None)

    def _enqueue(self, command: tuple[Any, ...], script: Script | None) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[Any] = loop.create_future()
        if self._is_closed:
            _resolve(reply, RedisAway("the link to Redis was closed"))
            return reply
        self._batch.append(_Command(command, reply, script))
        if len(self._batch) == 1:
            loop.call_soon(self._take_off)
        return reply

    def _take_off(self) -> None:
        # While all connections are busy the batch grows; whoever comes back takes it along.
        while self._batch and len(self._flushes) < self._max_connections:
            batch, self._batch = self._batch[:_MAX_BATCH], self._batch[_MAX_BATCH:]
            task = asyncio.get_running_loop().create_task(self._flush(batch))
            self._flushes.add(task)
            task.add_done_callback(self._land)

    def _land(self, task: asyncio.Task[None]) -> None:
        self._flushes.discard(task)
        if not self._is_closed:
            self._take_off()

    async def _flush(self, batch: list[_Command]) -> None:
        # Runs in a task of its own: a caller who is cancelled leaves the others' commands undisturbed.
        try:
            replies = await self._send_twice([command.words for command in batch])
            for command, value in zip(batch, replies, strict=True):
                if isinstance(value, ResponseError) and _refuses_writes(value):
                    value = RedisAway("Redis refuses to write", retry_after_s=1.0)
                if isinstance(value, NoScriptError) and command.script is not None:
                    value = (await self._send_twice([("EVAL", command.script.text, *command.words[2:])]))[0]
                _resolve(command.reply, value)
        except BaseException as error:
            for command in batch:
                _resolve(command.reply, error if isinstance(error, Exception) else RedisAway("the link to Redis was closed"))
            if not isinstance(error, Exception):
                raise

    async def _send_twice(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        # The second try is for connections that died while they lay idle.
        try:
            return await self._send(commands)
        except _GONE:
            await self._hang_up()  # the others may well have died of the same
            try:
                return await self._send(commands)
            except _GONE as error:
                self._note_away()
                raise RedisAway(f"Redis cannot be reached: {type(error).__name__}", retry_after_s=1.0) from error

    async def _send(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        self.round_trips += 1
        connection = self._idle.pop() if self._idle else self._pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            async with asyncio.timeout(self._timeout_s):
                if not connection.is_connected:
                    await connection.connect()
                await connection.send_packed_command([hiredis.pack_command(words) for words in commands], check_health=False)
                replies = [await _read(connection) for _ in commands]
        except BaseException:
            # Half a conversation: whatever comes next on it would be taken for another's reply.
            await asyncio.shield(connection.disconnect(nowait=True))
            raise
        if any(isinstance(reply, _NOT_READY) for reply in replies):
            await connection.disconnect(nowait=True)
            raise RedisConnectionError("Redis is not ready")
        self._idle.append(connection)
        self._away_since = None
        return replies

    def _note_away(self) -> None:
        if self._away_since is None:
            self._away_since = time.monotonic()

    async def ping(self) -> None:
        """Ask whether Redis is there; raises `RedisAway`."""
        await self.do("PING")

    # Listening.

    def on(self, topic: str, handler: Handler) -> None:
        """Call *handler* with the payload of every message on *topic*; it must not block."""
        if topic in self._handlers:
            raise ValueError(f"topic {topic!r} has a handler already")
        self._handlers[topic] = handler

    def on_connect(self, callback: Callable[[], Awaitable[None]]) -> None:
        """Call back after every (re)connection of the listening link: nudges may have been missed."""
        self._on_connect.append(callback)

    async def tell_all(self, topic: str, payload: str = "") -> None:
        """Send a nudge to every process, this one too."""
        await self.do("PUBLISH", keys.ALL, f"{topic} {payload}")

    async def listen(self) -> None:
        """Receive nudges until cancelled, reconnecting as often as needed. Run it as a task."""
        while True:
            # No read timeout here: silence is normal; TCP keepalive and the ping below find a dead peer.
            options = {} if self._url.startswith("unix:") else {"socket_keepalive": True}
            client = redis_asyncio.Redis.from_url(self._url, socket_timeout=None, socket_connect_timeout=2.0, **options)
            try:
                async with client.pubsub() as inbox:
                    await inbox.subscribe(self.inbox, keys.ALL)
                    self._listening.set()
                    for callback in self._on_connect:
                        await callback()
                    await self._receive(inbox)
            except (RedisError, OSError, RedisAway):
                self._note_away()
                await asyncio.sleep(0.2)
            finally:
                self._listening.clear()
                with contextlib.suppress(RedisError, OSError):
                    await client.aclose()

    async def _receive(self, inbox: Any) -> None:
        while True:
            message = await inbox.get_message(timeout=5.0)
            if message is None:
                await self.ping()
                continue
            if message["type"] != "message":
                continue
            topic, _, payload = message["data"].partition(b" ")
            handler = self._handlers.get(topic.decode())
            if handler is not None:
                handler(payload)

    async def listening(self) -> None:
        """Wait until nudges arrive."""
        await self._listening.wait()

    async def aclose(self) -> None:
        """Close the connections; commands in the air fail with `RedisAway`."""
        self._is_closed = True
        for task in list(self._flushes):
            task.cancel()
        await asyncio.gather(*self._flushes, return_exceptions=True)
        for command in self._batch:
            _resolve(command.reply, RedisAway("the link to Redis was closed"))
        await self._hang_up()

    async def _hang_up(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            await connection.disconnect(nowait=True)


async def _read(connection: AbstractConnection) -> Any:
    try:
        return await connection.read_response(disable_decoding=True)
    except ResponseError as error:  # one command's own
        return error


def _refuses_writes(error: ResponseError) -> bool:
    # Full, or unable to save what it has: its own trouble, not our command's.
    return isinstance(error, OutOfMemoryError) or str(error).startswith(_NO_WRITES)


def _resolve(reply: asyncio.Future[Any], value: Any) -> None:
    if reply.done():  # its caller was cancelled
        return
    if isinstance(value, BaseException):
        reply.set_exception(value)
        # A caller that was cancelled at this very moment never looks; that is no news.
        reply.exception()
    else:
        reply.set_result(value)
