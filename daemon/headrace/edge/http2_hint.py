"""
A word for clients of HTTP/2 that come to the HTTP/1.1 port. Most are clients of gRPC, and hear that it is the wrong one.

HTTP/2 is spoken just far enough to be understood: settings are acknowledged, and the first call ends at once, with a status of
gRPC's or, where gRPC is not asked for, with a 400. An error of HTTP/1.1 would tell either nothing: it would wait until its own
time is over.
"""

from __future__ import annotations

from collections.abc import Iterator

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY = 0, 1, 3, 4, 6, 7  # types of frames: RFC 9113, section 6
_ACK, _END_STREAM, _END_HEADERS = 0x1, 0x1, 0x4
_LONGEST_FRAME_BYTES = 1 << 14
_STATUS_200, _STATUS_400 = b"\x88", b"\x8c"  # HPACK's indexes of these two
# How "application/grpc" stands in the first headers of a connection: as it is, or in HPACK's Huffman code.
_GRPC = (b"application/grpc", bytes.fromhex("1d75d0620d263d4c4d6564"))
_UNIMPLEMENTED = b"12"
_WORDS = b"wrong port: this one speaks HTTP/1.1 (listen.http); gRPC has ports of its own (listen.grpc)"
_TRAILERS = ((b"content-type", b"application/grpc"), (b"grpc-status", _UNIMPLEMENTED), (b"grpc-message", _WORDS))


def is_http2(data: bytes) -> bool:
    """Whether the first bytes of a connection are of HTTP/2."""
    # Three at least: less may become a POST, and nobody sends a preface in such small pieces.
    return data[:3] == PREFACE[:3] and (data.startswith(PREFACE[:14]) or PREFACE.startswith(data))


class Hint:
    """
    One connection's talk. Pure: bytes in, bytes out.

    Args:
        error: the JSON for who asks for something else than gRPC.
    """

    def __init__(self, error: bytes) -> None:
        self._error = error
        self.is_over = False
        self._pending = b""
        self._has_begun = False

    def __repr__(self) -> str:
        return f"<Hint [{'over' if self.is_over else 'begun' if self._has_begun else 'new'}]>"

    def hear(self, data: bytes) -> bytes:
        """Return what is to be said to what came; once `is_over` is set nothing more is worth hearing."""
        self._pending += data
        said = b""
        if not self._has_begun and len(self._pending) >= len(PREFACE):
            self._pending = self._pending[len(PREFACE) :]
            self._has_begun = True
            said = _frame(_SETTINGS)
        if self._has_begun:
            said += b"".join(self._replies())
        return said

    def _replies(self) -> Iterator[bytes]:
        while len(self._pending) >= 9 and not self.is_over:
            length, kind, flags = int.from_bytes(self._pending[:3], "big"), self._pending[3], self._pending[4]
            stream = int.from_bytes(self._pending[5:9], "big") & 0x7FFFFFFF
            if length > _LONGEST_FRAME_BYTES:
                self.is_over = True
                return
            if len(self._pending) < 9 + length:
                return
            payload, self._pending = self._pending[9 : 9 + length], self._pending[9 + length :]
            yield self._reply(kind, flags, stream, payload)

    def _reply(self, kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        if kind == _SETTINGS and not flags & _ACK:
            return _frame(_SETTINGS, _ACK)
        if kind == _PING and not flags & _ACK:
            return _frame(_PING, _ACK, payload=payload)
        if kind != _HEADERS:
            return b""
        self.is_over = True
        leave = _frame(_GOAWAY, payload=stream.to_bytes(4, "big") + bytes(4) + _WORDS)
        return self._answer(stream, payload) + _frame(_RST_STREAM, 0, stream, bytes(4)) + leave

    def _answer(self, stream: int, headers: bytes) -> bytes:
        if any(spelled in headers for spelled in _GRPC):
            return _frame(_HEADERS, _END_STREAM | _END_HEADERS, stream, _STATUS_200 + _pairs(_TRAILERS))
        head = _STATUS_400 + _pairs(((b"content-type", b"application/json"),))
        return _frame(_HEADERS, _END_HEADERS, stream, head) + _frame(_DATA, _END_STREAM, stream, self._error)


def _frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _pairs(pairs: tuple[tuple[bytes, bytes], ...]) -> bytes:
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in pairs)


def _text(raw: bytes) -> bytes:
    # HPACK: a length below 127 in one byte, then the text as it is.
    return bytes((len(raw),)) + raw
