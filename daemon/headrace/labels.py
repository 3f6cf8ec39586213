"""
Labels: what a caller says its calls are for, in words that the configuration allows it. Pure.

    x-headrace-labels: feature=search, env=prod

Limits match them, and usage is added up by them, so they are few and short. A label that a caller may not send is refused by
name, rather than counted nowhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from headrace.errors import InvalidCall
from headrace.model import Caller, Labels

HEADER = "x-headrace-labels"

_MOST = 8
_VALUE = re.compile(r"[A-Za-z0-9._:/@+-]{1,64}")
_RIGHT = "1 to 64 letters, digits or any of ._:/@+-"


def labels_of_header(text: str, caller: Caller) -> Labels:
    """Return the labels that the header says, by name; raises `InvalidCall` for what is none, or not one of this caller's."""
    if not text:
        return ()
    parts = [part.partition("=") for part in text.split(",")]
    if wrong := [name for name, equals, _ in parts if not equals]:
        raise _refused(f"{HEADER}: {wrong[0].strip()[:32]!r} is no label; they look so: feature=search, env=prod")
    return labels_of(((name.strip(), value.strip()) for name, _, value in parts), caller)


def labels_of(pairs: Iterable[tuple[str, str]], caller: Caller) -> Labels:
    """Return labels sorted by name; raises `InvalidCall` as above."""
    labels = tuple(sorted(pairs))
    names = [name for name, _ in labels]
    for name, value in labels:
        if name not in caller.labels:
            raise _refused(f"label {name[:32]!r} is not one that {caller.name} may send: {_allowed(caller)}")
        if not _VALUE.fullmatch(value):
            raise _refused(f"label {name}: a value has {_RIGHT}, and not {value[:32]!r}")
        if names.count(name) > 1:
            raise _refused(f"label {name}: it is there twice")
    if len(labels) > _MOST:
        raise _refused(f"{len(labels)} labels; a call bears {_MOST} at most")
    return labels


def header_of(labels: Labels) -> str:
    """Return labels as the header says them."""
    return ", ".join(f"{name}={value}" for name, value in labels)


def _allowed(caller: Caller) -> str:
    if caller.labels:
        return f"it may send {', '.join(caller.labels)}"
    return f"caller.{caller.name}.labels in the daemon's configuration names none"


def _refused(message: str) -> InvalidCall:
    return InvalidCall(message, metadata={"field": "labels"})
