"""Who never shakes hands does not hold a connection."""

from __future__ import annotations

import asyncio
from pathlib import Path

from aiohttp import web

from headrace.certificates import Certificates
from headrace.clock import SystemClock
from headrace.edge.http_site import Site
from pki import Authority


async def test_no_handshake(tmp_path: Path) -> None:
    """A connection over which nothing comes, or half of a hello, is cut off by the server."""
    server = Authority(tmp_path).server()
    certificates = Certificates(str(server.certificate), str(server.key), "", SystemClock())

    async def nobody(_: web.BaseRequest) -> web.StreamResponse:
        raise AssertionError("a request")

    runner = web.ServerRunner(web.Server(nobody))
    await runner.setup()
    await Site(runner, "127.0.0.1", 0, certificates.context, handshake_s=0.2).start()
    try:
        for said in (b"", b"\x16\x03\x01\x02\x00\x01\x00"):
            reader, writer = await asyncio.open_connection(*runner.addresses[0])
            writer.write(said)
            async with asyncio.timeout(5):
                assert await reader.read(100) == b""
            writer.close()
    finally:
        await runner.cleanup()
