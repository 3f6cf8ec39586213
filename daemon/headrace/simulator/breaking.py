"""How an answer ends before its end: in silence, with a reset, or with a connection that closes."""

from __future__ import annotations

import asyncio
import socket
import struct

from aiohttp.web import BaseRequest

from headrace.simulator.faults import Kind, Rule

BREAKS = frozenset((Kind.HANG, Kind.RESET, Kind.HALF_JSON, Kind.HALF_STREAM, Kind.STREAM_ERROR))


async def break_off(request: BaseRequest, rule: Rule) -> None:
    """Do to the connection what the rule says; a silence lasts until the caller leaves."""
    match rule.kind:
        case Kind.HANG:
            await asyncio.get_running_loop().create_future()
        case Kind.RESET:
            _reset(request)
        case _ if not rule.clean and request.transport is not None:
            request.transport.close()


def _reset(request: BaseRequest) -> None:
    """Close the connection so that the other side sees a reset and not an end."""
    transport = request.transport
    if transport is None:
        return
    wire = transport.get_extra_info("socket")
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
