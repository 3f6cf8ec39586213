"""
What of an error fits into the trailers of an RPC.

Readers take 8 KiB of trailers; of an error that brings more they make RESOURCE_EXHAUSTED, and its code and details are lost. So
what is sent is measured as it goes over the wire: `grpc-message` spells every byte that is not visible ASCII with three, and
`grpc-status-details-bin` is base64. Whatever is too long is cut between characters.

The text is in both: libraries compare them, and refuse details that say something else than the message.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping

# The rest is for what gRPC itself says, 32 bytes a field included, and for the id, the times and the ticket of a call.
_ROOM_BYTES = 8192 - 512 - 1280 - 128
_VALUE_BYTES = 256  # of one value of the metadata; an idempotency key has 255 characters
_METADATA_BYTES = 2048  # of all of it
_PLAIN = bytes(byte for byte in range(0x20, 0x7F) if byte != ord("%"))  # what `grpc-message` leaves as it is
_FRAME_BYTES = 4  # around a text inside a protobuf of this size


def fit(text: str, details_bytes: int) -> str:
    """Return the text, cut so that it and a status of *details_bytes* without it fit."""
    text = clean(text)
    if _wire_bytes(text, details_bytes) <= _ROOM_BYTES:
        return text
    text = text[:_ROOM_BYTES]
    lengths = range(len(text) + 1)
    end = bisect.bisect_right(lengths, _ROOM_BYTES, key=lambda length: _wire_bytes(f"{text[:length]}...", details_bytes))
    return f"{text[: max(0, end - 1)]}..."


def bounded(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return as much of the metadata as fits beside a text, long values cut."""
    kept: dict[str, str] = {}
    left = _METADATA_BYTES
    for name, value in metadata.items():
        said = _cut(clean(value), _VALUE_BYTES)
        left -= len(name.encode()) + len(said.encode())
        if left < 0:
            break
        kept[name] = said
    return kept


def clean(text: str) -> str:
    """Return the text as UTF-8 has it: halves of surrogate pairs, which an error may quote, become question marks."""
    return text.encode("utf-8", "replace").decode()


def _cut(text: str, max_bytes: int) -> str:
    raw = text.encode()
    return text if len(raw) <= max_bytes else raw[: max_bytes - 3].decode(errors="ignore") + "..."


def _wire_bytes(text: str, details_bytes: int) -> int:
    raw = text.encode()
    spelled = len(raw) + 2 * len(raw.translate(None, _PLAIN))
    return spelled + 4 * -(-(details_bytes + _FRAME_BYTES + len(raw)) // 3)
