"""An entry, its bytes, and its weight."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_samples import entry
from headrace.cache.entry import Entry, decode
from headrace.model import Answer, Event, Form, Usage

moments = st.floats(min_value=0, max_value=1e12)
entries = st.builds(
    Entry,
    fingerprint=st.text("0123456789abcdef", min_size=64, max_size=64),
    answer=st.builds(
        Answer,
        form=st.sampled_from(Form),
        payload=st.binary(max_size=300),
        created=moments,
        usage=st.builds(Usage, *[st.integers(0, 10**9)] * 4, known=st.booleans()),
        request_id=st.text(max_size=10),
        no_keep=st.text(max_size=10),
        is_kept=st.booleans(),
        headers=st.lists(st.tuples(st.text("abc-", min_size=1), st.text(st.characters(max_codepoint=255)))).map(tuple),
    ),
    scope=st.text(max_size=10),
    model=st.text(max_size=10),
    asked=moments,
    fresh_until=moments,
    keep_until=moments,
    renditions=st.builds(lambda: entry().renditions),
)


@given(entries)
def test_round_trip(kept):
    """What is read is what was written."""
    assert decode(kept.encode()) == kept


@given(entries, st.data())
def test_flipped_bit(kept, data):
    """A single bit that is not as it was written makes the whole no entry."""
    raw = bytearray(kept.encode())
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= 1 << data.draw(st.integers(0, 7))

    assert decode(bytes(raw)) is None


@given(entries, st.data())
def test_wrong_length(kept, data):
    """So does a tail that is lost, or one that is too long."""
    raw = kept.encode()

    assert decode(raw[: data.draw(st.integers(0, len(raw) - 1))]) is None
    assert decode(raw + data.draw(st.binary(min_size=1, max_size=9))) is None


@given(st.binary(max_size=200))
def test_garbage(raw):
    """Bytes of any kind are read without a crash."""
    assert decode(raw) is None
    assert decode(b"HRe1" + raw) is None


def test_pickles():
    """A pickle is garbage like any other."""
    assert decode(pickle.dumps(entry("a" * 64))) is None


def test_half_a_character():
    """A model name that no encoding takes does not stop an answer from being kept."""
    assert decode(entry("a" * 64, model="\ud800").encode()).model == "\\ud800"


def test_fresh():
    """Fresh until the moment, and not at it."""
    kept = entry("a" * 64, created=100.0, ttl_s=10.0)
    assert kept.fresh(109.9)
    assert not kept.fresh(110.0)


@pytest.mark.parametrize(
    ("form", "least"),
    [(b"x" * 1000, 1000), ([Event("e", b"x" * 400, b"x" * 600)], 1000), (("x" * 500, b"y" * 500), 1000), ({}, 10)],
)
def test_renditions_weigh(form, least):
    """Ready-to-send forms weigh what they hold; replaced ones weigh no more."""
    kept = entry("a" * 64)
    before = kept.weight

    kept.renditions["sse"] = form
    assert least <= kept.weight - before <= least + 600

    kept.renditions["sse"] = b""
    assert kept.weight - before < 50
