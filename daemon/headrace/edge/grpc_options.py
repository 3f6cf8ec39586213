"""
What grpcio is told when it starts, and why. Most of it bounds what one connection can do to the others.

- Streams that were reset stay in grpcio until the loop has taken them, and all connections of a server share one queue for it.
  When that is full, grpcio fails calls by chance, anybody's. So a connection may have so many streams, those that it has reset
  among them (`overload_protection`, grpcio's default). More are refused, and every client of gRPC's asks for them again; and
  the queue is so long that it is never full.
- A message is received into memory before anybody can look at it, and so is what it decompresses to: compressed ones are
  refused.
- Each connection holds what it reads next into, also while it says nothing: that begins small, and grows where much comes.
- Windows do not grow by what a connection has measured (`bdp_probe`): what nobody reads stays with its sender, but for 64 KB.
"""

from __future__ import annotations

MAX_MESSAGE_BYTES = 64 * 2**20  # upstream takes bodies of 32 MB
_MOST = 2**31 - 1
_METADATA_BYTES = 8 * 1024
_READ_BYTES, _MOST_READ_BYTES = 8 * 1024, 64 * 1024  # a thousand connections that say nothing take 19 MB, and took 76
_LATE_S = 600  # that a call may wait for the loop; grpcio ends it then as CANCELLED, whosesoever it is
_GREETING_MS = 20_000  # in a flood whoever comes may have to wait for its turn (grpc_porch.py)
_IDENTITY = 1  # the bit of messages that are not compressed

_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.compression_enabled_algorithms_bitset", _IDENTITY),
    ("grpc.max_metadata_size", _METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", _METADATA_BYTES),
    ("grpc.server.max_pending_requests", _MOST),
    ("grpc.server.max_pending_requests_hard_limit", _MOST),
    ("grpc.server_max_unrequested_time_in_server", _LATE_S),
    ("grpc.server_handshake_timeout_ms", _GREETING_MS),
    ("grpc.http2.settings_timeout", _GREETING_MS),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.experimental.tcp_read_chunk_size", _READ_BYTES),
    ("grpc.experimental.tcp_max_read_chunk_size", _MOST_READ_BYTES),
    ("grpc.experimental.tcp_max_read_buffer_size", 2 * _MOST_READ_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 100),  # pings that come too soon: a client may be a nervous one, but no flood
)


def options(max_streams: int = _MOST, *, shares_port: bool = False) -> tuple[tuple[str, int], ...]:
    """Return what a server is told, with so many calls at once over each connection; others may listen where it does."""
    return (*_OPTIONS, ("grpc.so_reuseport", int(shares_port)), ("grpc.max_concurrent_streams", max_streams))
