"""Jobs for a helper, of every kind: what they do is said by the first letter of their head."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from headrace.errors import InvalidCall


def job(head: bytes, body: bytes) -> bytes:
    """Do what the head says."""
    match head[:1]:
        case b"r":  # return it
            return head[1:] + body
        case b"p":  # who does it
            return b"%d" % os.getpid()
        case b"s":  # what is seen of the environment
            return "\n".join(os.environ).encode()
        case b"i":
            raise InvalidCall("no \ud800", metadata={"field": "f"})
        case b"f":
            raise ZeroDivisionError("a prompt")
        case b"m":
            return bytes(8 << 30)
        case b"d":
            os.kill(os.getpid(), signal.SIGKILL)
        case b"o":  # die once: the mark says whether it has
            mark = Path(head[1:].decode())
            if not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return b"done"
        case b"w":  # say that it has begun, and never end
            Path(head[1:].decode()).touch()
            while True:
                time.sleep(1)
    raise AssertionError(head)
