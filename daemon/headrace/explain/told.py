"""
What is kept of a call that somebody may ask about, and which calls these are. Pure.

Made of the call's outcome: names, times and counts, each try with what it waited for, and never a word of what was asked or
answered. A call that went smoothly is none of them, nor is a kept answer: they are the most, and nobody asks about them. Nor is
what strangers send: there is no end of it.
"""

from __future__ import annotations

import msgspec

from headrace import codec
from headrace.call_log import shown_model
from headrace.clock import is_moment
from headrace.outcome import Outcome
from headrace.trail import Try

_WAITED_S = 0.1  # who waits for less will not ask why
_MOST_TRIES = 50  # the last ones
_LONGEST_S = 366 * 86_400.0


class Told(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    What came of one call; the fields are those of `Outcome`, and most of them say "" or 0 where there is nothing to say.

    Args:
        host: the process that told it.
        caller: as `Owner.text` has it.
        tries: at upstream, the last of `attempts`.
    """

    id: str
    host: str
    edge: str
    caller: str
    endpoint: str = ""
    team: str = ""
    lane: str = ""
    model: str = ""
    source: str = ""
    reason: str = ""
    status: int = 0
    limit: str = ""
    ticket: str = ""
    request_id: str = ""
    input_tokens: int = 0
    cache_read_tokens: int = 0
    output_tokens: int = 0
    attempts: int = 0
    began: float
    took_s: float
    first_s: float | None = None
    waits: tuple[tuple[str, float], ...] = ()
    tries: tuple[Try, ...] = ()


def is_worth(outcome: Outcome, slow_s: float) -> bool:
    """Whether somebody may ask about a call: it failed, was slow, waited, was tried again, or has a ticket."""
    if not outcome.endpoint:  # a request that was refused before it was a call: whoever sent it has heard why
        return False
    return bool(outcome.id) and (
        outcome.reason != ""
        or outcome.ticket != ""
        or outcome.took_s >= slow_s
        or len(outcome.tries) > 1
        or sum(seconds for _, seconds in outcome.waits) >= _WAITED_S
    )


def told_of(outcome: Outcome, host: str) -> Told:
    """Return what is kept of a call."""
    usage = outcome.usage
    return Told(
        id=outcome.id,
        host=host,
        edge=outcome.edge,
        caller=outcome.caller,
        endpoint=outcome.endpoint,
        team=outcome.team,
        lane=outcome.lane,
        model=shown_model(outcome.model),
        source=outcome.source,
        reason=outcome.reason,
        status=outcome.status,
        limit=outcome.limit,
        ticket=outcome.ticket,
        request_id=outcome.request_id,
        input_tokens=usage.input_tokens + usage.cache_creation_input_tokens,
        cache_read_tokens=usage.cache_read_input_tokens,
        output_tokens=usage.output_tokens,
        attempts=outcome.attempts or len(outcome.tries),
        began=outcome.began,
        took_s=outcome.took_s,
        first_s=outcome.first_s,
        waits=outcome.waits,
        tries=outcome.tries[-_MOST_TRIES:],
    )


def encode(told: Told) -> bytes:
    """Return it as Redis keeps it."""
    return msgspec.json.encode(told)


def decode(raw: bytes) -> Told:
    """Return it; raises `ValueError` for what is none."""
    told = codec.decode(raw, Told)
    moments = (told.began, *(each.began for each in told.tries))
    spans = (told.took_s, told.first_s or 0.0, *(each.took_s for each in told.tries), *(each.waited_s for each in told.tries))
    if not all(map(is_moment, moments)):
        raise ValueError("a moment that is none")
    if not all(0 <= span < _LONGEST_S for span in (*spans, *(seconds for _, seconds in told.waits))):
        raise ValueError("a span that is none")
    counts = (told.status, told.attempts, *(each.number for each in told.tries), *(each.status for each in told.tries))
    if not all(0 <= count < 2**31 for count in counts):
        raise ValueError("a count that is none")
    if not all(0 <= tokens < 2**53 for tokens in (told.input_tokens, told.cache_read_tokens, told.output_tokens)):
        raise ValueError("a number of tokens that is none")
    return told
