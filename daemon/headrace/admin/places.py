"""Where the live page is: unix sockets and addresses, each taken so that it is nobody else's."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from headrace import sockets
from headrace.errors import StartupError
from headrace.lockfile import AddressLock

_UNIX = "unix:"
_BACKLOG = 128


class Socket:
    """
    A unix socket that only its user, and root, may use: whoever comes in may act.

    Args:
        text: "unix:<path>"; a relative path lies in *runtime_dir*.
    """

    def __init__(self, text: str, runtime_dir: Path) -> None:
        self.path = runtime_dir / text.removeprefix(_UNIX)
        self.text = f"{_UNIX}{self.path}"
        self._lock = AddressLock(self.text, runtime_dir)

    def __repr__(self) -> str:
        return f"<Socket {self.text}>"

    def bind(self) -> socket.socket:
        """Return it, listening; raises `StartupError`."""
        if len(os.fsencode(self.path)) > sockets.MAX_PATH_BYTES:
            raise StartupError(
                f"listen.admin: {self.path} is longer than the {sockets.MAX_PATH_BYTES} bytes that a socket's may be"
            )
        self._lock.acquire()
        try:
            return self._bind()
        except OSError as error:
            self.release()
            raise StartupError(f"listen.admin: cannot listen on {self.text}: {error.strerror or error}") from error
        except BaseException:
            self.release()
            raise

    def _bind(self) -> socket.socket:
        if sockets.is_listening(self.path):
            raise StartupError(f"listen.admin: {self.text} is in use by another program; stop it, or listen elsewhere")
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.unlink(missing_ok=True)
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            os.fchmod(bound.fileno(), 0o600)  # the file gets the mode of the socket: nobody gets in before it is right
            bound.bind(str(self.path))
            self.path.chmod(0o600)
            bound.listen(_BACKLOG)
            bound.setblocking(False)
        except BaseException:
            bound.close()
            raise
        return bound

    def release(self) -> None:
        """Let go of it, after the server has stopped."""
        if self._lock.stats().is_held:
            self.path.unlink(missing_ok=True)
            self._lock.release()


def is_socket(text: str) -> bool:
    """Whether an address is a unix socket's."""
    return text.startswith(_UNIX)
