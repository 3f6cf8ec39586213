"""The rules of freshness, age and what may be kept, decided without I/O."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_samples import entry, key
from headrace.cache.control import parse_cache_control
from headrace.cache.keeping import Keeping, age_s
from headrace.model import Answer, CacheControl, Caller, Form, Source
from scripted import CALL, MESSAGE

KEEPING = Keeping(ttl_s=3600, stale_s=600)
ANY = Caller("any")
HASTY, PATIENT, WITHOUT = Caller("hasty", cache_ttl_s=60), Caller("patient", cache_ttl_s=7200), Caller("without", cache_ttl_s=0)
ANSWER = Answer(Form.JSON, MESSAGE, created=1000.0)


def call(caller: Caller = ANY, control: str = "", **changes):
    wished = KEEPING.wish(parse_cache_control(control), caller)
    return replace(CALL, caller=caller, cache=wished, fingerprint=key(1), **changes)


def is_fresh(kept, asks, now: float) -> bool:
    return KEEPING.is_fresh(kept, asks.cache, now)


# What callers wish.


@pytest.mark.parametrize(
    ("caller", "control", "max_age_s", "no_store"),
    [
        (ANY, "", 3600, False),
        (ANY, "max-age=5", 5, False),
        (ANY, "max-age=99999", 3600, False),
        (ANY, "no-store", 3600, True),
        (HASTY, "", 60, False),
        (HASTY, "max-age=5", 5, False),
        (HASTY, "max-age=99", 60, False),
        (PATIENT, "", 7200, False),
        (PATIENT, "max-age=5", 5, False),
        (WITHOUT, "", 0, True),
        (WITHOUT, "max-age=99", 0, True),
    ],
)
def test_wish(caller: Caller, control: str, max_age_s: float, no_store: bool) -> None:
    """The configuration speaks for a caller that cannot; of two times the shorter counts."""
    wished = KEEPING.wish(parse_cache_control(control), caller)
    assert (wished.max_age_s, wished.no_store) == (max_age_s, no_store)


def test_wish_keeps_the_rest() -> None:
    """What else a call says stays as it is."""
    asked = CacheControl(no_cache=True, only_if_cached=True, stale_if_error_s=7)
    assert KEEPING.wish(asked, HASTY) == replace(asked, max_age_s=60)


# Freshness.


@pytest.mark.parametrize(
    ("stored_by", "asked_by", "fresh_for_s"),
    [
        (ANY, ANY, 3600),
        (HASTY, HASTY, 60),
        (PATIENT, PATIENT, 7200),
        (HASTY, ANY, 60),
        (ANY, HASTY, 60),
        (PATIENT, ANY, 3600),
        (ANY, PATIENT, 3600),
        (HASTY, PATIENT, 60),
        (PATIENT, HASTY, 60),
    ],
)
def test_stricter_counts(stored_by: Caller, asked_by: Caller, fresh_for_s: float) -> None:
    """An answer is fresh by the time of whose call it answered, and by that of who asks."""
    kept = KEEPING.entry_of(call(stored_by), ANSWER, 999.0)
    assert is_fresh(kept, call(asked_by), 1000 + fresh_for_s - 1)
    assert not is_fresh(kept, call(asked_by), 1000 + fresh_for_s + 1)


def test_max_age() -> None:
    """A caller that accepts no old answer is given none, up to the very second."""
    kept = KEEPING.entry_of(call(), ANSWER, 999.0)
    assert is_fresh(kept, call(control="max-age=5"), 1005.0)
    assert not is_fresh(kept, call(control="max-age=5"), 1005.1)


@given(
    st.sampled_from([ANY, HASTY, PATIENT]),
    st.sampled_from([ANY, HASTY, PATIENT]),
    st.none() | st.integers(0, 9000),
    st.floats(0, 9000),
)
def test_read_if_fresh(stored_by: Caller, asked_by: Caller, max_age_s: int | None, age: float) -> None:
    """Whatever would answer a call is read from Redis: what its key has left to live is more than is asked for."""
    asks = call(asked_by, "" if max_age_s is None else f"max-age={max_age_s}")
    kept = KEEPING.entry_of(call(stored_by), ANSWER, 999.0)
    now = 1000 + age
    if is_fresh(kept, asks, now):
        assert (kept.keep_until - now) * 1000 >= KEEPING.fresh_ms(asks)


def test_old_is_not_read() -> None:
    """What is too old for a call is left in Redis."""
    kept = KEEPING.entry_of(call(), ANSWER, 999.0)
    assert (kept.keep_until - 1010) * 1000 < KEEPING.fresh_ms(call(control="max-age=5"))


@pytest.mark.parametrize(
    "asks", [call(control="no-cache"), call(control="no-store"), call(no_keep="mcp"), call(WITHOUT)], ids=str
)
def test_nothing_read(asks) -> None:
    """A call that no kept answer may answer reads none, near or far."""
    assert KEEPING.fresh_ms(asks) == -1
    assert not KEEPING.looks_up(asks)


def test_off() -> None:
    """A cache that is off looks nothing up, and keeps nothing."""
    off = replace(KEEPING, is_on=False)
    assert off.fresh_ms(call()) == -1
    assert not off.looks_up(call())
    assert off.no_keep(call(), ANSWER) == "cache-off"


# Stale ones.


@pytest.mark.parametrize(
    ("control", "past_s", "serves"),
    [
        ("", 1, False),
        ("stale-if-error=60", 59, True),
        ("stale-if-error=60", 61, False),
        ("stale-if-error=9999", 599, True),
        ("stale-if-error=9999", 601, False),
        ("stale-if-error=60, no-store", 1, False),
    ],
)
@pytest.mark.parametrize("caller", [ANY, HASTY, PATIENT], ids=lambda caller: caller.name)
def test_stale(caller: Caller, control: str, past_s: float, serves: bool) -> None:
    """An answer past its time may stand in as long as the call says and `cache.stale` allows; never where nothing is kept."""
    kept = KEEPING.entry_of(call(caller), ANSWER, 999.0)
    assert KEEPING.serves_stale(kept, call(caller, control).cache, kept.fresh_until + past_s) == serves
    assert kept.keep_until >= kept.fresh_until + KEEPING.stale_s


# What may be kept.


@pytest.mark.parametrize(
    ("asks", "answer", "reason"),
    [
        (call(), ANSWER, ""),
        (call(control="no-cache"), ANSWER, ""),
        (call(control="no-store"), ANSWER, "no-store"),
        (call(WITHOUT), ANSWER, "no-store"),
        (call(no_keep="server-tools"), ANSWER, "server-tools"),
        (call(), replace(ANSWER, payload=MESSAGE.replace(b"end_turn", b"refusal")), "refusal"),
        (call(), replace(ANSWER, payload=b'{"a":' * 3000 + b"1" + b"}" * 3000), "bad-message"),
    ],
)
def test_no_keep(asks, answer: Answer, reason: str) -> None:
    """Each no has its reason."""
    assert KEEPING.no_keep(asks, answer) == reason


# What is told.


def test_told() -> None:
    """Cache-Status says how long it is good, or why not."""
    kept, new = replace(ANSWER, is_kept=True), replace(ANSWER, no_keep="refusal")
    asks, k = call(), f'key="{key(1)}"'

    def told(answer: Answer | None, source: Source, asks=asks) -> str:
        return KEEPING.flight_status(asks, answer, source, 1010.0)

    assert KEEPING.hit_status(KEEPING.entry_of(asks, ANSWER, 999.0), 1010.0) == f"headrace; hit; ttl=3590; {k}"
    assert told(kept, Source.CACHE) == f"headrace; hit; ttl=3590; {k}"
    assert told(kept, Source.CACHE, call(HASTY)) == f"headrace; hit; ttl=50; {k}"
    assert told(kept, Source.UPSTREAM) == f"headrace; fwd=miss; stored; {k}"
    assert told(kept, Source.SHARED) == f"headrace; fwd=miss; collapsed; stored; {k}"
    assert told(None, Source.UPSTREAM) == f"headrace; fwd=miss; {k}"
    assert told(new, Source.UPSTREAM) == f"headrace; fwd=miss; {k}; detail=refusal"
    assert told(new, Source.UPSTREAM, call(no_keep="mcp")) == f"headrace; fwd=bypass; {k}; detail=mcp"
    no_store = replace(ANSWER, no_keep="no-store")
    assert told(no_store, Source.UPSTREAM, call(WITHOUT)) == f"headrace; fwd=bypass; {k}"


def test_age() -> None:
    """An answer that another host's clock dates into the future is new."""
    assert age_s(ANSWER, 1005.0) == 5.0
    assert age_s(ANSWER, 995.0) == 0.0
    assert entry(1, created=1000.0).fresh(995.0, 0.0)
