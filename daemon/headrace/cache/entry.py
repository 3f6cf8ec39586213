"""
What is kept: one complete answer, when it was said, and how long it is good for.

On disk and in Redis an entry is bytes with a checksum, never a pickle: `magic | 16 bytes of SHA-256 | length of the head |
head (JSON) | the answer as codec.py spells it`. A value file that lost its tail in a power cut is returned by the disk library
without complaint; the checksum is how we notice. What another version of ours wrote has another magic: it is nobody's fault,
and not there.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import field
from typing import Any

import msgspec

from headrace import codec, forms
from headrace.clock import is_moment
from headrace.model import Answer, Event
from headrace.values import quick

_FAMILY = b"HRe"
FOREIGN = _FAMILY + b"?"  # stands for what only another could read
_MAGIC = _FAMILY + b"2"  # change it whenever the bytes behind it change
_DIGEST_BYTES = 16
_HEAD_AT = len(_MAGIC) + _DIGEST_BYTES
_OVERHEAD_BYTES = 1200  # the objects around an answer's bytes: entry, answer, usage, two strings of 64, dict slots (measured)


class Renditions(dict[str, Any]):
    """
    Ready-to-send forms of an answer, built by the edges when first asked for, dropped with the entry.

    It weighs what is assigned (`renditions[name] = ...`) and tells the tier that holds the entry, whose bound counts them.
    """

    __slots__ = ("bytes", "tell")

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self.tell: Callable[[int], None] | None = None

    def __setitem__(self, name: str, form: Any) -> None:
        grown = _weigh(form) - (_weigh(self[name]) if name in self else 0)
        super().__setitem__(name, form)
        self.bytes += grown
        if self.tell is not None:
            self.tell(grown)


@quick(frozen=True, slots=True)
class Entry:
    """
    One kept answer.

    Args:
        fingerprint: of the calls it answers.
        scope, model: of the call it was made for; a purge selects by them.
        asked: when upstream was asked for it: a purge after that means it, too.
        fresh_until: answers without further question before this moment.
        keep_until: gone after it; in between it serves stale-if-error only.
    """

    fingerprint: str
    answer: Answer
    scope: str
    model: str
    asked: float
    fresh_until: float
    keep_until: float
    renditions: Renditions = field(default_factory=Renditions, compare=False, repr=False)

    def fresh(self, now: float, max_age_s: float | None = None) -> bool:
        """Whether it answers without further question, where nothing older than *max_age_s* will do."""
        return now < self.fresh_until and (max_age_s is None or now - self.answer.created <= max_age_s)

    def is_sound(self) -> bool:
        """Whether it says an answer, at moments that are some: what anybody can give a checksum may say neither."""
        moments = (self.asked, self.answer.created, self.fresh_until, self.keep_until)
        return all(map(is_moment, moments)) and forms.is_whole(self.answer)

    @property
    def weight(self) -> int:
        """The bytes it takes in memory, roughly."""
        return _OVERHEAD_BYTES + len(self.answer.payload) + _weigh_headers(self.answer) + self.renditions.bytes

    def encode(self) -> bytes:
        head = msgspec.json.encode(
            _Head(
                fingerprint=self.fingerprint,
                scope=_encodable(self.scope),
                model=_encodable(self.model),
                asked=self.asked,
                fresh_until=self.fresh_until,
                keep_until=self.keep_until,
            )
        )
        body = b"".join((len(head).to_bytes(4, "big"), head, codec.encode_answer(self.answer)))
        return b"".join((_MAGIC, _digest(body), body))


def decode(raw: bytes) -> Entry | None:
    """Read an entry back; None if a single bit is not as it was written."""
    body = memoryview(raw)[_HEAD_AT:]
    if raw[: len(_MAGIC)] != _MAGIC or len(body) < 4 or raw[len(_MAGIC) : _HEAD_AT] != _digest(body):
        return None
    answer_at = 4 + int.from_bytes(body[:4], "big")
    try:
        head = codec.decode(body[4:answer_at], _Head)
        answer = codec.decode_answer(bytes(body[answer_at:]))
    except ValueError:
        return None
    return Entry(head.fingerprint, answer, head.scope, head.model, head.asked, head.fresh_until, head.keep_until)


def is_foreign(raw: bytes) -> bool:
    """Whether another version of ours wrote these bytes: then they are no sign of trouble."""
    return raw.startswith(_FAMILY) and not raw.startswith(_MAGIC)


class _Head(msgspec.Struct):
    fingerprint: str
    scope: str
    model: str
    asked: float
    fresh_until: float
    keep_until: float


def _digest(body: bytes | memoryview) -> bytes:
    return hashlib.sha256(body).digest()[:_DIGEST_BYTES]


def _encodable(text: str) -> str:
    # A model name is the caller's free text, and JSON lets half a character through.
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _weigh_headers(answer: Answer) -> int:
    # A pair, and two strings of their own (measured: 64 + 2 * 50).
    return sum([164 + len(name) + len(value) for name, value in answer.headers])


def _weigh(form: Any) -> int:
    if isinstance(form, Event):
        return 200 + len(form.data) + len(form.raw)
    if isinstance(form, Sequence) and not isinstance(form, str | bytes | bytearray):
        return 64 + sum(map(_weigh, form))
    return sys.getsizeof(form)
