"""One address of the HTTP port: aiohttp's, but that a TLS handshake has only so long. It costs before anybody is known."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

from aiohttp import web

HANDSHAKE_S = 10.0


class Site(web.TCPSite):
    """
    Listens at one address.

    Args:
        context: for TLS; None for none.
        handshake_s: who has not shaken hands by then is cut off; by the loop, as asyncio times it.
    """

    __slots__ = ("_handshake_s",)

    def __init__(
        self, runner: web.ServerRunner, host: str, port: int, context: ssl.SSLContext | None, handshake_s: float = HANDSHAKE_S
    ) -> None:
        super().__init__(runner, host, port, ssl_context=context, reuse_port=False)
        self._handshake_s = handshake_s

    async def start(self) -> None:
        """Listen; raises `OSError`."""
        await web.BaseSite.start(self)
        tls: dict[str, Any] = {"ssl_handshake_timeout": self._handshake_s} if self._ssl_context else {}
        server: Any = self._runner.server
        self._server = await asyncio.get_running_loop().create_server(
            server, self._host, self._port, backlog=self._backlog, reuse_port=self._reuse_port, ssl=self._ssl_context, **tls
        )
