"""
A real Valkey whose clock is turned by hand: it runs our own scripts, and what they call the time, and the end of a key, goes by
that clock. Nothing else is made up. It writes down what it does, so that it can be killed and started anew on its data.

What is published for the inboxes that somebody listens to is heard all at once, by whoever asks for it.
"""

from __future__ import annotations

import copy
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path

import redis

from conftest import start_valkey
from headrace.link import Script

CLOCK, ENDS = "clock", "ends"

_PRELUDE = """
local server = redis
local clock_us = tonumber(server.call('GET', 'clock'))
local function ends(key, at_ms) return server.call('ZADD', 'ends', string.format('%.3f', at_ms), key) end
local redis = {}
local function set(key, value, ...)
    local how = {...}
    local is_new = how[1] == 'NX'
    local span_ms = how[is_new and 3 or 2]
    if is_new and server.call('EXISTS', key) == 1 then return false end
    if span_ms then ends(key, clock_us / 1e3 + span_ms) end
    return server.call('SET', key, value)
end
function redis.call(command, ...)
    local key, value = ...
    if command == 'TIME' then return {math.floor(clock_us / 1e6), clock_us % 1e6} end
    if command == 'PEXPIRE' then return ends(key, clock_us / 1e3 + value) end
    if command == 'PEXPIREAT' then return ends(key, value) end
    if command == 'PERSIST' then return server.call('ZREM', 'ends', key) end
    if command == 'SET' then return set(...) end
    return server.call(command, ...)
end
function redis.pcall(command, ...)
    if command == 'SET' then return set(...) end
    return server.pcall(command, ...)
end
"""


@functools.cache
def turned(script: Script) -> Script:
    """Return a script that goes by the turned clock."""
    other = copy.copy(script)
    other.text = _PRELUDE + script.text
    other.sha = hashlib.sha1(other.text.encode(), usedforsecurity=False).hexdigest()
    return other


class TurnedValkey:
    """A server of its own in *directory*; its clock is in microseconds."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._inboxes: set[str] = set()
        self.start()

    def start(self) -> None:
        """Start it, on its data if there are any; what was published meanwhile is lost."""
        # What is written survives a kill without being on the disk.
        options = ("--appendonly", "yes", "--appendfsync", "no", "--auto-aof-rewrite-min-size", "1mb")
        self._process, self.url = start_valkey(self._directory, *options)
        self.client = redis.Redis.from_url(self.url)
        self._ear = self.client.pubsub()
        for inbox in self._inboxes:
            self._ear.subscribe(inbox)

    def stop(self) -> None:
        """Kill it, at once."""
        self._ear.close()
        self.client.close()
        self._process.kill()
        self._process.wait(10)

    def empty(self, now_us: int) -> None:
        """Forget all, and let it be this time."""
        self.client.flushall()
        self.client.script_flush()
        for inbox in list(self._inboxes):
            self.leave(inbox)
        self.turn(now_us)

    def turn(self, now_us: int) -> None:
        """Let it be this time; what has ended by then is gone."""
        self.client.set(CLOCK, now_us)
        if ended := self.client.zrangebyscore(ENDS, "-inf", now_us / 1000):
            self.client.delete(*ended)
            self.client.zrem(ENDS, *ended)

    def listen(self, inbox: str) -> None:
        """Somebody listens to this inbox from now on."""
        self._inboxes.add(inbox)
        self._ear.subscribe(inbox)
        self.heard()

    def leave(self, inbox: str) -> None:
        """Nobody listens there any more."""
        self._inboxes.discard(inbox)
        self._ear.unsubscribe(inbox)

    def heard(self) -> list[tuple[str, bytes]]:
        """Return what was published since the last look: inbox and message."""
        return list(self._hear()) if self._inboxes else []

    def _hear(self) -> Iterator[tuple[str, bytes]]:
        self._ear.ping()  # its answer comes after all that was published before
        while (message := self._ear.get_message(timeout=10)) is None or message["type"] != "pong":
            if message and message["type"] == "message":
                yield message["channel"].decode(), message["data"]
