"""Redis's protocol as frames: where one ends, and what a command says. Pure."""

from __future__ import annotations

from collections.abc import Iterator

_LINES = b"+-:_#,("
_TEXTS = b"$=!"
_MANY = {ord("*"): 1, ord("~"): 1, ord(">"): 1, ord("%"): 2, ord("|"): 2}


class Frames:
    """Bytes as they come, and the frames in them."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the frames that are whole now."""
        self._held += data
        at = 0
        while (end := _end(self._held, at)) is not None:
            yield self._held[at:end]
            at = end
        self._held = self._held[at:]


def _end(data: bytes, at: int) -> int | None:
    """Return where the frame ends that begins at a place; None if it is not whole."""
    line = data.find(b"\r\n", at)
    if line < 0:
        return None
    kind, after = data[at], line + 2
    if kind in _LINES:
        return after
    size = int(data[at + 1 : line])
    if kind in _TEXTS:
        end = after if size < 0 else after + size + 2
        return end if end <= len(data) else None
    end = after
    for _ in range(max(0, size) * _MANY[kind] + (kind == ord("|"))):  # attributes come before what they are of
        found = _end(data, end)
        if found is None:
            return None
        end = found
    return end


def words(frame: bytes) -> list[bytes]:
    """Return the words of a command."""
    said, at = [], frame.find(b"\r\n") + 2
    for _ in range(int(frame[1 : at - 2])):
        line = frame.find(b"\r\n", at)
        size = int(frame[at + 1 : line])
        said.append(frame[line + 2 : line + 2 + size])
        at = line + size + 4
    return said
