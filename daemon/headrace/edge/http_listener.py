"""
All connections of one HTTP address: made, counted, given their turns, and looked after once a second.
"""

from __future__ import annotations

from typing import Any

from aiohttp.web_protocol import RequestHandler

from headrace import heads
from headrace.edge.connections import Connections
from headrace.edge.http_protocol import Connection, Manager
from headrace.edge.http_refusals import Refusals
from headrace.edge.http_slices import Slices
from headrace.edge.http_times import Times

MAX_FIELD_BYTES = 65_536  # of the request line, and of one header
MAX_HEADERS = 1_000
_READ_BYTES = 32_768  # of a body that nobody has read yet; and a sixteenth of it in chunks
_LOOK_S = 1.0
_AT_ONCE = 1000  # connections that are looked at in one turn of the loop
_MOST_STUCK_BYTES = 64_000_000  # of answers that nobody takes; they lie here, whole, until they are taken


class Listener(Manager):
    """
    Makes the connections of one address, and looks after them until `rest`.

    Args:
        connections: counts them.
        times: what each may take.
    """

    def __init__(
        self, handler: Any, *, refusals: Refusals, connections: Connections, times: Times | None = None, **options: Any
    ) -> None:
        limits: dict[str, Any] = {
            "max_line_size": MAX_FIELD_BYTES,
            "max_field_size": MAX_FIELD_BYTES,
            "max_headers": MAX_HEADERS,
            "read_bufsize": _READ_BYTES,
            "auto_decompress": False,  # it would be done before anybody is known
        }
        self.times = times or Times()
        heads.write_as_they_are()
        super().__init__(handler, **limits, keepalive_timeout=self.times.idle_s, **options)
        self.refusals = refusals
        self.counted = connections
        self.slices = Slices(self._loop)
        self._look = self._loop.call_later(_LOOK_S, self._look_after)

    def __call__(self) -> RequestHandler:
        """Return the protocol of a new connection."""
        return Connection(self, loop=self._loop, **self._kwargs)

    def rest(self) -> None:
        """Look after nothing any longer."""
        self._look.cancel()

    def _look_after(self, left: tuple[Any, ...] = ()) -> None:
        ahead, now = left or tuple(self._connections), self._loop.time()
        for connection in ahead[:_AT_ONCE]:
            connection.look(now)
        more = ahead[_AT_ONCE:]
        if not more:
            self._relieve()
        self._look = self._loop.call_later(0 if more else _LOOK_S, self._look_after, more)

    def _relieve(self) -> None:
        connections: tuple[Any, ...] = tuple(self._connections)
        stuck = [connection for connection in connections if connection.taking.stuck_bytes]
        over = sum(connection.taking.stuck_bytes for connection in stuck) - _MOST_STUCK_BYTES
        if over <= 0:
            return
        for connection in sorted(stuck, key=lambda one: one.taking.stuck_bytes, reverse=True):
            over -= connection.taking.stuck_bytes
            connection.end_unread()
            if over <= 0:
                return
