"""
How logs are set up: JSON lines on stderr, colours on a terminal, no text of any error, and no floods (rations.py).

An error's text may quote a prompt, an answer or a key, whoever raised it; its kind and its place never do. So these two are all
that is logged of it, and of what libraries log themselves only the words that stand in their source.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
import traceback
from collections.abc import MutableMapping
from typing import Any

import msgspec
import structlog

from headrace import observe
from headrace.errors import HeadraceError
from headrace.rations import Rations

_WORDS = re.compile(r"[A-Za-z0-9 ,.:;%/_-]{0,200}")
_MOST_CAUSES = 8
_TELLING = (
    "what",
    "part",
    "code",
    "kind",
    "error",
    "reason",
    "library",
    "text",
    "tier",
)  # lines that differ in these are other lines


def _to_json(event: Any, **_: Any) -> str:
    return msgspec.json.encode(event, enc_hook=repr).decode()


def set_up_logs(*, console: bool | None = None, level: int = logging.INFO) -> None:
    """Log to stderr: JSON lines, or colours on a terminal. Libraries' own loggers join in, warnings and up only."""
    if console is None:
        console = sys.stderr.isatty()
    renderer: Any = structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer(serializer=_to_json)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _without_texts,
            _Rationed(),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, handlers=[_Libraries()], force=True)
    # gRPC has a line for every peer that does something wrong, in its core (which reads this when it is loaded) and in Python.
    # It knows nothing that we do not say ourselves.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    logging.getLogger("grpc").setLevel(logging.CRITICAL)


def _without_texts(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    given = event.pop("exc_info", None)
    error = given if isinstance(given, BaseException) else sys.exc_info()[1] if given is True else given and given[1]
    if error is not None:
        event["exception"] = trace(error)
        if isinstance(error, HeadraceError):
            event["reason"] = error.reason
    return event


class _Rationed:
    """Leaves out what is said too often. A ticket that went its way is told for each, and calls have rations of their own."""

    def __init__(self) -> None:
        self._rations = Rations(time.monotonic)

    def __call__(self, _: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        if event["event"] == observe.CALL_ENDED or (event["level"] == "info" and "ticket" in event):
            return event
        left_out = self._rations.take((event["event"], *(event.get(name) for name in _TELLING)))
        if left_out is None:
            raise structlog.DropEvent
        if left_out:
            event["left_out"] = left_out
        return event


def trace(error: BaseException) -> str:
    """Return where an error came from and of which kinds it and its causes are, the first cause first; never their texts."""
    said: list[str] = []
    at: BaseException | None = error
    while at is not None and len(said) < _MOST_CAUSES:
        number = f" [errno {at.errno}]" if isinstance(at, OSError) and at.errno is not None else ""
        inner = f" of {', '.join(type(one).__name__ for one in at.exceptions)}" if isinstance(at, BaseExceptionGroup) else ""
        said.append("".join(traceback.format_tb(at.__traceback__)) + type(at).__qualname__ + number + inner)
        at = at.__cause__ or (None if at.__suppress_context__ else at.__context__)
    return "\nled to\n".join(reversed(said))


class _Libraries(logging.Handler):
    """What libraries log by the standard library, as events of ours: the words of their source, not what they put into them."""

    def emit(self, record: logging.LogRecord) -> None:
        # asyncio puts values into the text itself, always in brackets or quotes of some kind, or on lines of their own.
        words = _WORDS.match(str(record.msg))
        error = record.exc_info[1] if record.exc_info else None
        said = {"library": record.name, "text": words[0].strip() if words else ""}
        structlog.get_logger().log(record.levelno, observe.LIBRARY_SAID, **said, exc_info=error)
