"""Whether something can be written in a place, found out by writing: what a file system says of itself may be wrong."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

_ROOM_BYTES = 256_000  # as much as has to be free, at the least, for anybody to be able to work there


def cannot_write(directory: Path) -> str:
    """Return why nothing can be written in a directory, in the system's words; "" if something can. It takes milliseconds."""
    probe = directory / f".probe-{os.getpid()}"
    try:
        with open(probe, "wb", buffering=0) as file:
            if (file.write(bytes(_ROOM_BYTES)) or 0) < _ROOM_BYTES:
                return os.strerror(errno.ENOSPC)
            os.fsync(file.fileno())
    except OSError as error:
        return error.strerror or type(error).__name__
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()
    return ""
