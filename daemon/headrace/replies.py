"""
What an error of Redis means: one list, for the link and for RQ's connections.

An error reply begins with a code. Some codes say "not here": this server cannot, another one may, so the connection is given
up and a new one finds the new primary. Some say "not now": the server is full, or loading, or busy, and waiting helps. Both
are Redis being away, as a broken connection is. Every other code is a refusal that a person has to mend: a user who may not,
a Cluster, a key that holds something else. Waiting would not help, so the caller hears at once which code it was.

A reply's own text is never passed on: Redis quotes arguments in some of them.
"""

from __future__ import annotations

import re
import socket
import ssl
from enum import Enum, auto
from urllib.parse import urlsplit

from redis import exceptions

from headrace.errors import HeadraceError, RedisAway, RedisRefused


class Meaning(Enum):
    """What to make of an error."""

    GONE = auto()  # no reply at all: the connection is broken or was never made
    NOT_HERE = auto()  # this server cannot serve us; a new connection may lead to one that can
    NOT_NOW = auto()  # it cannot yet, or not any more; the connection is good
    REFUSED = auto()  # it will not, however often we ask
    OURS = auto()  # no word of Redis: a fault of ours


_NOT_HERE = frozenset({"READONLY", "MASTERDOWN", "LOADING", "CLUSTERDOWN", "UNBLOCKED", "REDIRECT", "NOMASTERLINK"})
_NOT_NOW = frozenset(
    {"OOM", "MISCONF", "NOREPLICAS", "TRYAGAIN", "BUSY", "INPROG", "NOQUORUM", "IOERR", "EXECABORT", "MAXCLIENTS"}
)
_SETTINGS = frozenset({"NOPERM", "NOAUTH", "WRONGPASS", "NODB", "DENIED", "CROSSSLOT", "MOVED", "ASK", "NOPROTO"})

_CLUSTER = "a Redis Cluster is not supported"
_HINTS = {
    "NOPERM": "its user may not use that command, key or channel; see docs/installation.md for the ACL",
    "NOAUTH": "it asks for a password, and is given none",
    "WRONGPASS": "the user or the password is wrong",
    "NODB": "the database in redis.url is beyond those that it has",
    "DENIED": "it is in protected mode",
    "CROSSSLOT": _CLUSTER,
    "MOVED": _CLUSTER,
    "ASK": _CLUSTER,
    "WRONGTYPE": "a key holds what we did not put there",
}

# asyncio's TimeoutError is an OSError, too.
_GONE = (exceptions.ConnectionError, exceptions.TimeoutError, exceptions.InvalidResponse, OSError)
# The code may stand behind other words: those of a pipeline of redis-py ("Command # 2 (...) of pipeline caused error: "), of a
# transaction that was given up ("... because of: "), of a script in an old Redis.
_PIPELINE = re.compile(r".*caused error: ", re.DOTALL)
_INNER = re.compile(r"(?:EXECABORT )?Transaction discarded because of: |(?:ERR )?Error running script.*: -", re.DOTALL)
_CODE = re.compile(r"([A-Z][A-Z0-9]+) ")
_NETWORK: tuple[tuple[type[BaseException], str], ...] = (
    (ConnectionRefusedError, "the connection is refused"),
    (socket.gaierror, "its host is unknown"),
    (FileNotFoundError, "there is no such socket"),
    (PermissionError, "no permission to connect"),
    (exceptions.TimeoutError, "no answer in time"),
    (TimeoutError, "no answer in time"),
    (ConnectionResetError, "it hung up"),
    (exceptions.InvalidResponse, "what answers is no Redis, or speaks TLS"),
)
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")  # what OpenSSL makes of an answer in the clear
_CLOSED = "Connection closed by server"  # redis-py's own words for it
_OUTER = ("ERR", "EXECABORT")  # what matters may be inside
# What has no code of its own, and is told apart from other errors by one of ours.
_OWN_CODES = (
    ("ERR max number of clients", "MAXCLIENTS"),
    ("DB index is out of range", "NODB"),
    ("ERR DB index is out of range", "NODB"),
    ("invalid DB index", "NODB"),
)


def code(error: BaseException) -> str:
    """Return the code that an error reply began with, "ERR" where it had none; "" if the error is no reply."""
    if not isinstance(error, exceptions.RedisError) or isinstance(error, exceptions.InvalidResponse):
        return ""
    # redis-py cuts the code off where it knows it.
    known: str | None = getattr(error, "status_code", None)
    if known and known not in _OUTER:
        return known
    if isinstance(error, exceptions.AuthenticationError):
        return "WRONGPASS"
    if isinstance(error, _GONE):  # over a unix socket, redis-py wraps what it was told at the door
        return code(error.__cause__) if error.__cause__ is not None else ""
    return _code_in(str(error), known or "ERR")


def _code_in(text: str, otherwise: str) -> str:
    text = _PIPELINE.sub("", text, 1)
    if own := next((own for words, own in _OWN_CODES if text.startswith(words)), ""):
        return own
    inner = _INNER.match(text)
    found = _CODE.match(text, inner.end() if inner else 0)
    return found[1] if found else otherwise


def meaning(error: BaseException) -> Meaning:
    """Return what to make of an error that a command of ours came to."""
    said = code(error)
    if said in _NOT_HERE:
        return Meaning.NOT_HERE
    if said in _NOT_NOW:
        return Meaning.NOT_NOW
    if isinstance(error, exceptions.RedisError) and said:
        return Meaning.REFUSED
    return Meaning.GONE if isinstance(error, (*_GONE, RedisAway)) else Meaning.OURS


def is_away(error: BaseException) -> bool:
    """Whether the error means that Redis cannot be asked for now."""
    return meaning(error) in (Meaning.GONE, Meaning.NOT_HERE, Meaning.NOT_NOW)


def is_away_code(said: str) -> bool:
    """Whether a code tells that this server cannot do it, or not now, whoever asks."""
    return said in _NOT_HERE or said in _NOT_NOW


def concerns_all(said: str) -> bool:
    """Whether a code tells of the server or of its settings, and not of the one command that was refused."""
    return is_away_code(said) or said in _SETTINGS


def reason(error: BaseException) -> str:
    """Return the reply's code, or why there was no reply, or the kind of the error: what a log line may say."""
    return code(error) or _distrust(error) or _unreached(error) or type(error).__name__


def cause(error: BaseException) -> str:
    """Return why Redis cannot be reached, for people; never a word of what was sent."""
    said = code(error)
    return f"{_HINTS[said]} ({said})" if said in _HINTS else reason(error)


def where(url: str) -> str:
    """Return the address in a URL of Redis, without user, password and options."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return f"unix://{parts.path}"
    hosts = parts.netloc.rpartition("@")[2]  # of sentinels many
    return f"{parts.scheme}://{hosts}{parts.path}"


def _unreached(error: BaseException) -> str:
    # What the network says of it, in words of ours.
    at: BaseException | None = error
    while at is not None:
        if words := next((words for kind, words in _NETWORK if isinstance(at, kind)), ""):
            return words
        at = at.__cause__ or at.__context__
    return "it hung up" if str(error).startswith(_CLOSED) else ""


def _distrust(error: BaseException) -> str:
    # Why TLS did not come about, in OpenSSL's words: a person has to mend it, and "ConnectionError" says nothing.
    inner = error.__cause__ or error.__context__
    if not isinstance(inner, ssl.SSLError):
        return ""
    if inner.reason in _NO_TLS:
        return "TLS: what answers there does not speak it"
    return f"TLS: {getattr(inner, 'verify_message', '') or inner.reason or 'no handshake'}"


def ours(error: BaseException, command: str = "") -> HeadraceError | None:
    """Return what callers are told instead of a foreign error; None where that is no word of Redis."""
    if isinstance(error, RedisAway):  # a new one for each who is told: a traceback grows in whoever raises it
        return type(error)(error.message, retry_after_s=error.retry_after_s, metadata=error.metadata)
    match meaning(error):
        case Meaning.OURS:
            return None
        case Meaning.REFUSED:
            return _refused(code(error), command)
        case Meaning.GONE:
            return RedisAway(f"Redis cannot be reached: {reason(error)}", retry_after_s=1.0)
        case _:
            return RedisAway(f"Redis cannot do it now: {reason(error)}", retry_after_s=1.0, metadata={"code": code(error)})


def _refused(said: str, command: str) -> RedisRefused:
    hint = _HINTS.get(said, "")
    what = f"Redis refused {command or 'a command'}: {said}{f' ({hint})' if hint else ''}"
    return RedisRefused(what, metadata={"code": said, "command": command} if command else {"code": said})
