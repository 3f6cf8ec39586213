"""
One address of the HTTP port: aiohttp's, but that connections count before they speak TLS.

A handshake costs before anybody is known, and the library shows a connection only after it. So here connections are accepted
one by one: each counts from then on (`connections.py`), has only so long for its handshake, and gives way meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
from collections.abc import Callable
from typing import Any

from aiohttp import web

from headrace.edge.connections import Connections
from headrace.edge.http_protocol import Connection, peer_of
from headrace.edge.http_refusals import FULL, Refusals

_BACKLOG = 4096  # connections that wait to be taken: one more waits a second for its next try
_AGAIN_S = 1.0  # after which one more is accepted, where there was no descriptor for it
_FULL = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Handshake:
    """A connection that does not speak TLS yet."""

    def __init__(self, accepted: socket.socket, peer: str, since: float) -> None:
        self.peer = peer
        self._accepted = accepted
        self._since = since

    def __repr__(self) -> str:
        return f"<Handshake [since {self._since:.1f}]>"

    def idle_since(self) -> float | None:
        """Return since when it is there: it has asked nothing."""
        return self._since

    def give_way(self) -> None:
        """Close."""
        with contextlib.suppress(OSError):  # it is closed already
            self._accepted.shutdown(socket.SHUT_RDWR)


class TlsServer:
    """
    Accepts connections at some sockets, and has them shake hands. What a site has for a server.

    Args:
        make: makes the protocol of a connection.
        handshake_s: who has not shaken hands by then is cut off; by the loop, as asyncio times it.
    """

    def __init__(
        self,
        sockets: list[socket.socket],
        make: Callable[[], Connection],
        context: ssl.SSLContext,
        handshake_s: float,
        connections: Connections,
        refusals: Refusals,
    ) -> None:
        self.sockets = sockets
        self._make, self._context, self._handshake_s = make, context, handshake_s
        self._connections, self._refusals = connections, refusals
        self._loop = asyncio.get_running_loop()
        self._shaking: set[asyncio.Task[None]] = set()
        self._accepting = [self._loop.create_task(self._accept(at)) for at in sockets]

    def __repr__(self) -> str:
        return f"<TlsServer [{len(self._shaking)} handshakes]>"

    def close(self) -> None:
        """Accept no more, and break off the handshakes that are under way."""
        for task in (*self._accepting, *self._shaking):
            task.cancel()

    async def _accept(self, at: socket.socket) -> None:
        with at:  # closed once nobody waits at it: loops want it so
            while True:
                try:
                    accepted, name = await self._loop.sock_accept(at)
                except OSError as error:
                    await asyncio.sleep(_AGAIN_S if error.errno in _FULL else 0)
                    continue
                self._take(accepted, Handshake(accepted, peer_of(name), self._loop.time()))

    def _take(self, accepted: socket.socket, handshake: Handshake) -> None:
        if not self._connections.enter(handshake):
            self._refusals.note(FULL)
            accepted.close()
            return
        task = self._loop.create_task(self._shake(accepted, handshake))
        self._shaking.add(task)
        task.add_done_callback(self._shaking.discard)

    async def _shake(self, accepted: socket.socket, handshake: Handshake) -> None:
        def make() -> Connection:
            connection = self._make()
            connection.handshake = handshake
            return connection

        try:
            with contextlib.suppress(OSError):  # TLS's own errors and late ones are some: strangers at the door are no news
                await self._loop.connect_accepted_socket(
                    make, accepted, ssl=self._context, ssl_handshake_timeout=self._handshake_s
                )
        finally:
            self._connections.leave(handshake)


class Site(web.TCPSite):
    """
    Listens at one address.

    Args:
        context: for TLS; None for none.
        handshake_s: as `TlsServer` has it.
    """

    __slots__ = ("_connections", "_handshake_s", "_refusals")

    def __init__(
        self,
        runner: web.ServerRunner,
        host: str,
        port: int,
        context: ssl.SSLContext | None,
        *,
        handshake_s: float,
        connections: Connections,
        refusals: Refusals,
    ) -> None:
        super().__init__(runner, host, port, ssl_context=context, reuse_port=False)
        self._handshake_s, self._connections, self._refusals = handshake_s, connections, refusals

    async def start(self) -> None:
        """Listen; raises `OSError`."""
        if self._ssl_context is None:
            await super().start()
            return
        await web.BaseSite.start(self)
        make: Any = self._runner.server
        bound = await _bind(self._host, self._port)
        server: Any = TlsServer(bound, make, self._ssl_context, self._handshake_s, self._connections, self._refusals)
        self._server = server


async def _bind(host: str | None, port: int) -> list[socket.socket]:
    found = await asyncio.get_running_loop().getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    bound: list[socket.socket] = []
    try:
        for family, _, _, _, address in dict.fromkeys(found):
            bound.append(socket.create_server(address, family=family, backlog=_BACKLOG))
            bound[-1].setblocking(False)
    except BaseException:
        for at in bound:
            at.close()
        raise
    return bound
