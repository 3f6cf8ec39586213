"""
The link to Redis: one client a process, shared by every part that keeps state there.

Commands issued within a few turns of the event loop leave together, in order, in one write. So the parts stay apart (the
ledger settles, the cache stores, the flight lands, each by its own script) and a finished call still costs one round trip;
and under load many calls share a write, which more than doubles what one connection carries.

What a broken connection left unanswered is sent once more, so all of it must be harmless when it arrives twice: our scripts
carry ids, stream items explicit positions. Failures come out as `RedisAway`; what that means is each part's own policy.
What an error reply means is in replies.py, and listener.py has the second connection, on which nudges arrive.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import structlog
from redis.exceptions import ResponseError

from headrace import keys, observe, replies, servers, sure
from headrace.clock import Clock, SystemClock, Timers
from headrace.errors import RedisAway
from headrace.listener import Handler, Listener
from headrace.pipe import Command, Pipe, open_pipe
from headrace.refusals import Refusals, Refused
from headrace.replies import Meaning
from headrace.trail import HERE

log = structlog.get_logger()

_TRIES = 2
# Commands wait for others over so many turns of the loop, until there are a few. Beside leaving after one turn that costs a
# miss over gRPC, whose library wakes the loop for one call at a time, some 6 % less. Waiting on for all calls would make them
# one convoy.
_TURNS = 4
_FEW = 4
_SLOW_S = 1.0
_PROBE_MS = 1000


class Script:
    """
    A Lua script that ships beside the module that runs it; *after* others, in one text with them, if it uses theirs.

    *is_sure* is for what no failover may lose: where replicas are waited for at all, its reply waits for them.
    """

    def __init__(self, package: str, filename: str, *, after: Sequence[str] = (), is_sure: bool = False) -> None:
        self.name = filename
        self.is_sure = is_sure
        self.text = "".join(resources.files(package).joinpath(name).read_text() for name in (*after, filename))
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    def __repr__(self) -> str:
        return f"<Script {self.name}>"


@dataclass(frozen=True, slots=True)
class LinkStats:
    """Whether Redis answers, and what it refuses; how many commands wait to be sent, how many replies are owed; round trips."""

    is_up: bool
    refused: tuple[Refused, ...]
    to_send: int
    owed: int
    round_trips: int


class Link:
    """
    A shared, pipelined connection to Redis. `run` and `do` raise `RedisAway` when it cannot be reached, and `RedisRefused`
    when it will not do what it is asked.

    Args:
        url: redis://, rediss:// or unix://.
        timeout_s: how long connecting may take, and how long Redis may owe us a reply in silence, before it counts as away.
        quiet_s: after how long a silence the listening connection must give a sign of life.
        replicas: how many must have what a script writes that says it is to be sure (`Script.is_sure`).
        timers: by which the commands' patience is measured; the loop's own unless a test turns them.
        tells: whether it says in the log that it lost Redis, and has it back; a command on the command line says it itself.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 2.0,
        quiet_s: float = 5.0,
        replicas: int = 0,
        clock: Clock | None = None,
        timers: Timers | None = None,
        tells: bool = False,
    ) -> None:
        self.instance = f"{HERE}-{os.urandom(4).hex()}"
        self.inbox = keys.inbox(self.instance)
        self._timeout_s = timeout_s
        self._timers = timers
        self._pool = servers.pool(url, socket_timeout=None, socket_connect_timeout=timeout_s)
        # For what replicas must have, too; on a connection of its own, since WAIT holds up what is behind it.
        self._replicas = replicas
        self._sure = Link(url, timeout_s=timeout_s, clock=clock, timers=timers) if replicas else self
        self._tasks: set[asyncio.Task[Any]] = set()
        self._pipe: Pipe | None = None
        self._opening: asyncio.Task[Pipe] | None = None
        self._batch: list[Command] = []
        self._listener = Listener(url, (self.inbox, keys.ALL), clock or SystemClock(), timeout_s=timeout_s, quiet_s=quiet_s)
        self._refusals = Refusals(time.monotonic)  # only measured: what Redis did of late
        self._is_closed = False
        self._on_return: list[Callable[[], object]] = []
        self._where, self._why = replies.where(url), ""
        self._tells = tells
        self.is_up = True
        """Whether the last command was answered at all; what is heard on the listening connection does not matter here."""
        self.round_trips = 0

    def __repr__(self) -> str:
        stats = self.stats()
        state = "up" if stats.is_up else "away"
        refused = "".join(f", {each}" for each in stats.refused)
        return f"<Link [{state}, {stats.to_send} to send, {stats.owed} in the air{refused}]>"

    def stats(self) -> LinkStats:
        """Return its state now."""
        owed = self._pipe.owed if self._pipe else 0
        return LinkStats(self.is_up, self._refusals.now(), len(self._batch), owed, self.round_trips)

    @property
    def is_listening(self) -> bool:
        """Whether nudges arrive."""
        return self._listener.is_listening

    @property
    def is_silent(self) -> bool:
        """Whether Redis is away, or has owed us a reply for longer than it takes when all is well."""
        return not self.is_up or self._opening is not None or (self._pipe is not None and self._pipe.owed_s > _SLOW_S)

    def on_return(self, callback: Callable[[], object]) -> None:
        """Call back whenever Redis answers again after it was away; it must not block."""
        self._on_return.append(callback)

    @property
    def trouble(self) -> str:
        """Why Redis is of no use to us now, in a line; "" if it is."""
        if not self.is_up:
            return f"Redis cannot be reached at {self._where}: {self._why}"
        return "; ".join(map(str, self._refusals.now()))

    @property
    def connection(self) -> Pipe | None:
        """The connection on which commands go now; None while there is none."""
        return self._pipe

    def run(self, script: Script, names: Sequence[str], args: Sequence[Any]) -> asyncio.Future[Any]:
        """Run a script by its hash; Redis that has forgotten it is told it again. Sent even if nobody awaits it."""
        if self._replicas and script.is_sure:
            return self._start(sure.surely(self._sure, self._replicas, lambda: self._sure.run(script, names, args)))
        return self._enqueue(("EVALSHA", script.sha, len(names), *names, *args), script.text)

    def _start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # who asked may be gone
        return task

    def do(self, *command: Any) -> asyncio.Future[Any]:
        """Run one command. Replies are bytes, integers and lists, as Redis sends them."""
        return self._enqueue(command)

    def read_surely(self, *command: Any) -> asyncio.Future[Any]:
        """Run one command; where replicas are waited for at all, what it reads is on so many of them, too."""
        if self._replicas:
            return self._start(sure.surely(self._sure, self._replicas, lambda: self._sure.do(*command)))
        return self.do(*command)

    def _enqueue(self, words: tuple[Any, ...], script: str = "") -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[Any] = loop.create_future()
        if self._is_closed:
            _give_up(reply, _closed())
            return reply
        self._batch.append(Command(words, reply, script))
        if len(self._batch) == 1:
            loop.call_soon(self._flush_soon, _TURNS)
        return reply

    def _flush_soon(self, turns: int) -> None:
        loop = asyncio.get_running_loop()
        if turns > 1 and len(self._batch) < _FEW:
            loop.call_soon(self._flush_soon, turns - 1)
        else:
            self._flush()

    def _flush(self) -> None:
        if self._pipe is not None and self._batch:
            batch, self._batch = self._batch, []
            self.round_trips += 1
            self._pipe.send(batch)
        elif self._batch and self._opening is None:
            self._opening = asyncio.get_running_loop().create_task(self._open())
            self._opening.add_done_callback(self._opened)

    async def _open(self) -> Pipe:
        connection = self._pool.make_connection()  # type: ignore[no-untyped-call]  # the library's own gap
        return await open_pipe(connection, self._timeout_s, self._answered, self._lost, self._timers)

    def _opened(self, opening: asyncio.Task[Pipe]) -> None:
        # However it ended: a task that is cancelled before its first step could not clean up after itself.
        self._opening = None
        error = _closed() if opening.cancelled() else opening.exception()
        if error is None:
            self._pipe = opening.result()
        else:
            batch, self._batch = self._batch, []
            self._fail(batch, error, "a connection")
        self._flush()

    def _answered(self, command: Command, value: Any) -> None:
        if isinstance(value, ResponseError):
            self._refused(command, value)
            return
        self._heard()
        reply = command.reply
        if not reply.done():  # else its caller was cancelled
            reply.set_result(value)

    def _heard(self) -> None:
        if self.is_up:
            return
        self._back()
        for callback in self._on_return:
            callback()

    def _refused(self, command: Command, error: ResponseError) -> None:
        if command.script and replies.code(error) == "NOSCRIPT":
            self._batch.append(command.with_script())  # at the end, since those behind it did not know their script either
            asyncio.get_running_loop().call_soon(self._flush)
            return
        if replies.meaning(error) is Meaning.NOT_HERE:  # another connection may lead to a server that can
            if self._pipe is not None:
                self._pipe.close()
            self._again([command], error)
        else:
            self._heard()
            self._refusals.note(command.name, error)
            _give_up(command.reply, replies.ours(error, command.name) or error)

    def _lost(self, pipe: Pipe, commands: Sequence[Command]) -> None:
        if self._pipe is pipe:
            self._pipe = None
        self._again(commands, _closed() if self._is_closed else ConnectionResetError())

    def _again(self, commands: Sequence[Command], error: Exception) -> None:
        # The second try is for what was sent on a connection that had died while it lay idle.
        for command in commands:
            command.tries += 1
        most = 0 if self._is_closed else _TRIES - 1
        given_up = [command for command in commands if command.tries > most]
        self._fail(given_up, error, given_up[0].name if given_up else "")
        self._batch[:0] = [command for command in commands if command.tries <= most]
        asyncio.get_running_loop().call_soon(self._flush)

    def _fail(self, commands: Sequence[Command], error: BaseException, what: str) -> None:
        """Tell commands that they are given up; *what* was refused, if the error is a reply of Redis."""
        if commands and not isinstance(error, RedisAway):
            self._gone(error)
            if replies.code(error):
                self._refusals.note(what, error)
        for command in commands:
            _give_up(command.reply, replies.ours(error, command.name) or error)

    def _gone(self, error: BaseException) -> None:
        why = replies.cause(error)
        if self._tells and (self.is_up or why != self._why):
            log.warning(observe.REDIS_LOST, part="link", address=self._where, error=why)
        self.is_up, self._why = False, why

    def _back(self) -> None:
        if self._tells:
            log.warning(observe.REDIS_BACK, part="link", address=self._where)
        self.is_up, self._why = True, ""

    async def ping(self) -> None:
        """Ask whether Redis is there; raises `RedisAway`."""
        await self.do("PING")

    async def probe(self) -> None:
        """Try whether Redis takes a write again, if it did not of late; raises `RedisAway`."""
        if self._refusals.are_of_server:
            await self.do("SET", keys.PROBE, "1", "PX", _PROBE_MS)
            self._refusals.forget_server()

    async def set_clock(self, clock: Clock) -> None:
        """Let a clock go by Redis's. Raises `RedisAway`."""
        asked = clock.span()
        seconds, micros = await self.do("TIME")
        clock.go_by(int(seconds) + int(micros) / 1e6, asked, clock.span())

    # Listening.

    def on(self, topic: str, handler: Handler) -> None:
        """Call *handler* with the payload of every message on *topic*; it must not block."""
        self._listener.on(topic, handler)

    def on_connect(self, callback: Callable[[], Awaitable[None]]) -> None:
        """Call back after every (re)connection of the listening connection: nudges may have been missed."""
        self._listener.on_connect(callback)

    async def tell_all(self, topic: str, payload: str = "") -> None:
        """Send a nudge to every process, this one too."""
        await self.do("PUBLISH", keys.ALL, f"{topic} {payload}")

    async def listen(self) -> None:
        """Receive nudges until cancelled, reconnecting as often as needed. Run it as a task."""
        await self._listener.run()

    async def listening(self) -> None:
        """Wait until nudges arrive."""
        await self._listener.listening()

    async def aclose(self) -> None:
        """Close the connection; commands in the air fail with `RedisAway`."""
        self._is_closed = True
        if self._sure is not self:
            await self._sure.aclose()
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        pipe = self._pipe
        if pipe is not None:
            pipe.close()
        batch, self._batch = self._batch, []
        self._fail(batch, _closed(), "")
        if pipe is not None:
            await pipe.ended()


def _closed() -> RedisAway:
    return RedisAway("the link to Redis was closed")


def _give_up(reply: asyncio.Future[Any], error: BaseException) -> None:
    if not reply.done():  # else its caller was cancelled
        reply.set_exception(error)
        # A caller that was cancelled at this very moment never looks; that is no news.
        reply.exception()
