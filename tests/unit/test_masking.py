"""A key that upstream says back: it is unreadable wherever the text is cut, and all else is as it came."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from headrace.upstream.masking import Mask, key_in

KEY = "sk-ant-sk-ant-0123-sk"
TEXTS = st.lists(st.sampled_from([KEY, "sk-ant-", "s", "sk-", " ", "0123-sk", KEY[:-1], KEY[1:]]), max_size=12).map("".join)


@given(TEXTS, st.lists(st.integers(0, 200), max_size=8))
def test_mask(text: str, cuts: list[int]) -> None:
    """Whatever the pieces, it comes to what the whole would."""
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    mask = Mask(KEY)
    said = b"".join(mask.feed(text[begin:end].encode()) for begin, end in itertools.pairwise(places)) + mask.end()
    assert said == text.replace(KEY, "*" * len(KEY)).encode()


def test_nothing_is_held() -> None:
    """What is not like the beginning of a key goes on at once."""
    mask = Mask(KEY)
    assert mask.feed(b"data: hello\n\n") == b"data: hello\n\n"
    assert mask.feed(b"ask-ant") == b"a"
    assert mask.feed(b"!") == b"sk-ant!"


def test_key_in() -> None:
    """The key is what goes upstream as one; what is too short for one is none."""
    assert key_in([("x-api-key", KEY)]) == KEY
    assert key_in([("a", "b"), ("authorization", f"Bearer {KEY}")]) == KEY
    assert key_in([("x-api-key", "sk-test")]) == ""
    assert key_in([]) == ""
