"""
What our own Valkey says, in a file: bounded, and of what is in it only the end is read, since the loop waits meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_TAIL_BYTES = 4096
_MOST_BYTES = 4_000_000  # it and the copy of the one before


class ServerLog:
    """The log of one server, which appends to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._since = 0

    def __repr__(self) -> str:
        return f"<ServerLog {self.path}>"

    @contextlib.contextmanager
    def opened(self) -> Iterator[IO[bytes]]:
        """Open the file for a server that is started in the block, to append to."""
        self.rotate()
        with open(self.path, "ab", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            self._since = os.fstat(file.fileno()).st_size
            yield file

    def rotate(self) -> None:
        """Set aside what there is if it is much, as a copy: the server holds the file open, so it is emptied."""
        with contextlib.suppress(OSError):
            if self.path.stat().st_size > _MOST_BYTES:
                shutil.copy(self.path, self.path.with_suffix(".log.1"))
                os.truncate(self.path, 0)

    def heed(self) -> str:
        """Return what the server has said since it was started, at most the last 4 kB, and each word once."""
        said = self._read(self._since)
        with contextlib.suppress(OSError):
            self._since = self.path.stat().st_size
        return said

    def tail(self, lines: int = 5) -> str:
        """Return the last lines."""
        return "\n".join(self._read().splitlines()[-lines:])

    def _read(self, since: int = 0) -> str:
        with contextlib.suppress(OSError), open(self.path, "rb") as file:
            file.seek(max(since, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            return file.read(_TAIL_BYTES).decode(errors="replace")
        return ""
