"""
What becomes of a call whose RPC ends before it has an answer: its caller's choice, and what is usual where that says nothing.

One that is given up ends as soon as nobody else waits for the same answer. One that goes on has a ticket from the beginning, by
which its answer is found later. A submitted call has no RPC to wait in, so it goes on whatever happens.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from headrace.errors import InvalidCall

HEADER = "x-headrace-on-disconnect"


class OnDisconnect(StrEnum):
    """What a caller said; USUAL is nothing."""

    USUAL = ""
    CANCEL = "cancel"
    CONTINUE = "continue"

    def goes_on(self, *, has_key: bool) -> bool:
        """Whether a call goes on; *has_key* says that it has an idempotency key, and so is sought again."""
        return self is OnDisconnect.CONTINUE or (self is OnDisconnect.USUAL and has_key)


def read(said: str) -> OnDisconnect:
    """Return what a caller says by the header, or by the option of the same words; raises `InvalidCall` for what is neither."""
    try:
        return OnDisconnect(said.strip().lower())
    except ValueError:
        problem = f"on_disconnect: must be cancel or continue, not {said[:32]!r}"
        raise InvalidCall(problem, metadata={"field": "on_disconnect"}) from None


def check_carried(headers: Mapping[str, str]) -> None:
    """Raise `InvalidCall` if a call that is only carried asks to go on alone: there is nobody to take its answer."""
    if read(headers.get(HEADER, "")) is OnDisconnect.CONTINUE:
        problem = "on_disconnect: calls of this endpoint are only carried, and none of them goes on alone"
        raise InvalidCall(problem, metadata={"field": "on_disconnect"})
