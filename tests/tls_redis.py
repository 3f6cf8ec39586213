"""A Redis that speaks TLS alone: a server on PATH that can, or the Valkey of the tests behind a door of TLS."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import redis

from conftest import until
from pki import Authority, Pair


@contextlib.asynccontextmanager
async def door(url: str, server: Pair, clients: Authority) -> AsyncIterator[str]:
    """Stand before the Redis at a unix socket; who does not show a certificate of the authority's is not let in."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(clients.certificate))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(server.certificate, server.key)
    listening = await asyncio.start_server(lambda *ends: _join(url.removeprefix("unix://"), *ends), "127.0.0.1", 0, ssl=context)
    async with listening:
        yield f"rediss://localhost:{listening.sockets[0].getsockname()[1]}/0"


async def _join(path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    inner_reader, inner_writer = await asyncio.open_unix_connection(path)
    ways = [asyncio.create_task(_copy(reader, inner_writer)), asyncio.create_task(_copy(inner_reader, writer))]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        for end in (writer, inner_writer):
            end.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()


def capable() -> str:
    """Return a server on PATH that speaks TLS; "" if there is none."""
    for name in ("valkey-server", "redis-server"):
        if path := shutil.which(name):
            done = subprocess.run([path, "--tls-port", "0", "--port", "x"], capture_output=True, text=True, check=False)
            if "Bad directive" not in done.stdout + done.stderr or "tls-port" not in done.stdout + done.stderr:
                return path
    return ""


@contextlib.asynccontextmanager
async def server(binary: str, directory: Path, shows: Pair, clients: Authority) -> AsyncIterator[str]:
    """Run a server that speaks TLS by itself, under the same terms."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    files = ("--tls-cert-file", shows.certificate, "--tls-key-file", shows.key, "--tls-ca-cert-file", clients.certificate)
    command = [binary, "--port", "0", "--tls-port", port, *files, "--tls-auth-clients", "yes", "--dir", directory, "--save", ""]
    process = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL)  # noqa: ASYNC220  # it returns at once
    options = {"ssl_ca_certs": clients.certificate, "ssl_certfile": shows.certificate, "ssl_keyfile": shows.key}

    def answers() -> bool:
        with contextlib.suppress(redis.ConnectionError), redis.Redis("localhost", port, ssl=True, **options) as asked:
            return bool(asked.ping())
        return False

    try:
        await until(answers)
        yield f"rediss://localhost:{port}/0"
    finally:
        process.terminate()
        process.wait(10)
