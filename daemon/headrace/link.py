"""
The link to Redis: one client a process, shared by every part that keeps state there.

Commands issued in the same turn of the event loop leave together, in order, in one write. So the parts stay apart (the
ledger settles, the cache stores, the flight lands, each by its own script) and a finished call still costs one round trip;
and under load many calls share a write, which more than doubles what one connection carries.

What a broken connection left unanswered is sent once more, so all of it must be harmless when it arrives twice: our scripts
carry ids, stream items explicit positions. Failures come out as `RedisAway`; what that means is each part's own policy.

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
from importlib import resources
from typing import Any

import redis.asyncio as redis_asyncio
from redis import exceptions
from redis.exceptions import NoScriptError, OutOfMemoryError, RedisError, ResponseError

from headrace import keys
from headrace.errors import RedisAway
from headrace.pipe import Command, Pipe, open_pipe

Handler = Callable[[bytes], None]

# It was started anew, or another one is the master now.
_NOT_READY = (exceptions.BusyLoadingError, exceptions.MasterDownError, exceptions.ReadOnlyError)
# asyncio's TimeoutError is an OSError, too.
_GONE = (exceptions.ConnectionError, exceptions.TimeoutError, exceptions.InvalidResponse, OSError, *_NOT_READY)
_NO_WRITES = ("MISCONF", "NOREPLICAS", "OOM")
_TRIES = 2


class Script:
    """A Lua script that ships beside the module that runs it."""

    def __init__(self, package: str, filename: str) -> None:
        self.name = filename
        self.text = resources.files(package).joinpath(filename).read_text()
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    def __repr__(self) -> str:
        return f"<Script {self.name}>"


class Link:
    """
    A shared, pipelined connection to Redis. `run` and `do` raise `RedisAway` when it cannot be reached.

    Args:
        url: redis://, rediss:// or unix://.
        timeout_s: how long connecting may take, and how long Redis may owe us a reply in silence, before it counts as away.
    """

    def __init__(self, url: str, *, timeout_s: float = 2.0) -> None:
        self.instance = f"{socket.gethostname()}-{os.getpid()}-{os.urandom(4).hex()}"
        self.inbox = keys.inbox(self.instance)
        self._url = url
        self._timeout_s = timeout_s
        self._pool = redis_asyncio.ConnectionPool.from_url(url, socket_timeout=None, socket_connect_timeout=timeout_s)
        self._pipe: Pipe | None = None
        self._opening: asyncio.Task[Pipe] | None = None
        self._batch: list[Command] = []
        self._handlers: dict[str, Handler] = {}
        self._on_connect: list[Callable[[], Awaitable[None]]] = []
        self._listening = asyncio.Event()
        self._away_since: float | None = None
        self._is_closed = False
        self.round_trips = 0

    def __repr__(self) -> str:
        state = "away" if self._away_since else "up"
        return f"<Link [{state}, {len(self._batch)} to send, {self._pipe.owed if self._pipe else 0} in the air]>"

    @property
    def is_up(self) -> bool:
        """Whether the last round trip succeeded (and no listening link is known to be broken)."""
        return self._away_since is None

    def run(self, script: Script, names: Sequence[str], args: Sequence[Any]) -> asyncio.Future[Any]:
        """Run a script by its hash; Redis that has forgotten it is told it again. Sent even if nobody awaits it."""
        return self._enqueue(("EVALSHA", script.sha, len(names), *names, *args), script.text)

    def do(self, *command: Any) -> asyncio.Future[Any]:
        """Run one command. Replies are bytes, integers and lists, as Redis sends them."""
        return self._enqueue(command)

    def _enqueue(self, words: tuple[Any, ...], script: str = "") -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[Any] = loop.create_future()
        if self._is_closed:
            _resolve(reply, _closed())
            return reply
        self._batch.append(Command(words, reply, script))
        if len(self._batch) == 1:
            loop.call_soon(self._take_off)
        return reply

    def _take_off(self) -> None:
        if self._pipe is not None and self._batch:
            batch, self._batch = self._batch, []
            self.round_trips += 1
            self._pipe.send(batch)
        elif self._batch and self._opening is None:
            self._opening = asyncio.get_running_loop().create_task(self._open())
            self._opening.add_done_callback(self._opened)

    async def _open(self) -> Pipe:
        connection = self._pool.make_connection()  # type: ignore[no-untyped-call]  # the library's own gap
        return await open_pipe(connection, self._timeout_s, self._answered, self._lost)

    def _opened(self, opening: asyncio.Task[Pipe]) -> None:
        # However it ended: a task that is cancelled before its first step could not clean up after itself.
        self._opening = None
        error = _closed() if opening.cancelled() else opening.exception()
        if error is None:
            self._pipe = opening.result()
        else:
            batch, self._batch = self._batch, []
            self._fail(batch, error)
        self._take_off()

    def _answered(self, command: Command, value: Any) -> None:
        if isinstance(value, _NOT_READY):
            if self._pipe is not None:
                self._pipe.close()
            self._again([command], value)
        elif isinstance(value, NoScriptError) and command.script:
            self._batch.append(command.with_script())  # at the end, since those behind it did not know their script either
            asyncio.get_running_loop().call_soon(self._take_off)
        else:
            self._away_since = None
            refused = isinstance(value, ResponseError) and _refuses_writes(value)
            _resolve(command.reply, RedisAway("Redis refuses to write", retry_after_s=1.0) if refused else value)

    def _lost(self, pipe: Pipe, commands: Sequence[Command]) -> None:
        if self._pipe is pipe:
            self._pipe = None
        self._again(commands, _closed() if self._is_closed else ConnectionResetError())

    def _again(self, commands: Sequence[Command], error: Exception) -> None:
        # The second try is for what was sent on a connection that had died while it lay idle.
        for command in commands:
            command.tries += 1
        most = 0 if self._is_closed else _TRIES - 1
        self._fail([command for command in commands if command.tries > most], error)
        self._batch[:0] = [command for command in commands if command.tries <= most]
        asyncio.get_running_loop().call_soon(self._take_off)

    def _fail(self, commands: Sequence[Command], error: BaseException) -> None:
        is_gone = isinstance(error, _GONE)
        if commands and is_gone:
            self._note_away()
        for command in commands:
            said = RedisAway(f"Redis cannot be reached: {type(error).__name__}", retry_after_s=1.0) if is_gone else error
            _resolve(command.reply, said)

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
        """Close the connection; commands in the air fail with `RedisAway`."""
        self._is_closed = True
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        if self._pipe is not None:
            self._pipe.close()
        batch, self._batch = self._batch, []
        self._fail(batch, _closed())


def _closed() -> RedisAway:
    return RedisAway("the link to Redis was closed")


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
