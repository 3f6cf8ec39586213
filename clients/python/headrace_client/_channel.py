"""
How a channel to the daemon is opened.

The daemon is near: a failed connection is tried again soon, not after gRPC's two minutes, since what fails is a restart.
Messages may have 64 MB, as the daemon allows, where gRPC's own limit is 4.
"""

from __future__ import annotations

import asyncio
from typing import Any, TypeAlias

import grpc
import grpc.aio

OPTIONS = (
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    ("grpc.max_send_message_length", 64 * 1024 * 1024),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5_000),  # which is also how long a connection may take to come about
    ("grpc.max_reconnect_backoff_ms", 5_000),
)


Credentials: TypeAlias = grpc.ChannelCredentials
"""How TLS is spoken, as `grpc.ssl_channel_credentials` makes it."""


def open_channel(address: str, credentials: Credentials | None = None) -> Any:
    """Return a channel to `unix:PATH` or `HOST:PORT`; nothing is connected before the first call."""
    return _open(grpc, address, credentials)


def _open(library: Any, address: str, credentials: Credentials | None) -> Any:
    if credentials is None:
        return library.insecure_channel(address, OPTIONS)
    return library.secure_channel(address, credentials, OPTIONS)


class LoopChannel:
    """
    A channel of grpc.aio that is opened by the first call: it belongs to a loop, and clients are often made before theirs runs.

    A call on another loop opens another channel, so that a client outlives `asyncio.run`; the old channel went with its loop.
    """

    def __init__(self, address: str, credentials: Credentials | None = None) -> None:
        self._address = address
        self._credentials = credentials
        self._loop: asyncio.AbstractEventLoop | None = None
        self._channel: Any = None

    def get(self) -> Any:
        """Return the running loop's channel."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop, self._channel = loop, _open(grpc.aio, self._address, self._credentials)
        return self._channel

    async def close(self) -> None:
        """Close it; what still runs on it is cancelled. The next call opens another."""
        channel, is_ours = self._channel, self._loop is asyncio.get_running_loop()
        self._loop = self._channel = None
        if channel is not None and is_ours:
            await channel.close()
