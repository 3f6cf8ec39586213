"""
What a process keeps to itself: its files, its memory, and what it says when it dies.

What lies in the state directory may be a prompt, so files are made for their owner only, and what an earlier version or a
person made otherwise is mended at each start. Memory holds keys: a core dump is not written, and no other process of the same
user may look in. And what nobody caught is told as any error of ours is, by its kind and its place: the interpreter would
print its text.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import stat
import sys
import threading
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from types import TracebackType
from typing import Any

import structlog

from headrace import observe

_log = structlog.get_logger()

_PR_SET_DUMPABLE = 4
_FOR_OTHERS = stat.S_IRWXG | stat.S_IRWXO
# What is ours in a state directory, which may be somebody's home as well.
_OURS = ("cache", "cache.broken", "valkey", "*.lock", "*_key")
# They make gRPC write metadata to stderr, the keys in it included, and Python the secrets of TLS to a file.
_TELLTALES = ("GRPC_TRACE", "GRPC_VERBOSITY", "SSLKEYLOGFILE")


def close_up() -> None:
    """Make files for their owner only from here on, write no core dumps, tell no error's text at the end. Call it first."""
    os.umask(0o077)
    for name in _TELLTALES:
        os.environ.pop(name, None)
    forbid_dumps()
    _tell_without_texts()


def forbid_dumps() -> None:
    """Write no core dump, and let no debugger in but root's. Children inherit the former, and have to ask for the latter."""
    with contextlib.suppress(OSError, ValueError):  # a sandbox that lets nobody change limits has one itself
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0)
    except (ImportError, OSError, MemoryError, AttributeError):  # another system, or a sandbox in which ctypes cannot be
        pass


def mend_modes(directory: Path) -> None:
    """Take from group and others what they may do to what is ours in the state directory, and to write into it; tell it."""
    mended = int(_mend(directory, stat.S_IWGRP | stat.S_IWOTH))  # what clients' sockets lie in is theirs to enter
    mended += sum(_mend(path, _FOR_OTHERS) for path in _ours(directory))
    if mended:
        _log.warning(observe.MODES_MENDED, directory=str(directory), count=mended)


def _ours(directory: Path) -> Iterator[Path]:
    for top in directory.iterdir():
        if any(fnmatch(top.name, ours) for ours in _OURS):
            yield top
            for folder, folders, files in os.walk(top):
                yield from (Path(folder, name) for name in (*folders, *files))


def _mend(path: Path, taken: int) -> bool:
    try:
        found = path.lstat()
        is_ours = found.st_uid == os.geteuid() and (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode))
        if not is_ours or not found.st_mode & taken:
            return False
        path.chmod(stat.S_IMODE(found.st_mode) & ~taken)
    except OSError:  # it has gone meanwhile
        return False
    return True


# What nobody caught.


def _tell_without_texts() -> None:
    sys.excepthook = _tell_end
    threading.excepthook = lambda said: _tell(said.exc_value)
    sys.unraisablehook = lambda said: _tell(said.exc_value)
    logging.captureWarnings(True)  # else they would be printed, with whatever they are about


def _tell_end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if isinstance(error, KeyboardInterrupt):
        return
    _tell(error)


def _tell(error: Any) -> None:
    if isinstance(error, BaseException):
        _log.critical(observe.CRASHED, exc_info=error)
