"""A seal holds what was said, for the place where it was said, and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.seal import UNSEALED, Broken, Mac

MAC = Mac(b"0123456789abcdef")


@given(st.binary(max_size=300), st.text(max_size=30))
def test_round(said: bytes, place: str) -> None:
    for seal in (MAC, UNSEALED):
        assert seal.open(place, seal.seal(place, said)) == said


@given(st.binary(max_size=60), st.integers(0, 10**6), st.integers(1, 255))
def test_a_bit(said: bytes, where: int, how: int) -> None:
    sealed = bytearray(MAC.seal("here", said))
    sealed[where % len(sealed)] ^= how
    with pytest.raises(Broken):
        MAC.open("here", bytes(sealed))


@given(st.binary(max_size=60))
def test_rubbish(sealed: bytes) -> None:
    with pytest.raises(Broken):
        MAC.open("here", sealed)


def test_elsewhere() -> None:
    """Neither another place, nor another key, nor a place and bytes that are cut elsewhere."""
    sealed = MAC.seal("ticket:1", b"said")
    for seal, place in ((MAC, "ticket:2"), (MAC, "ticket:"), (Mac(b"another, of 16 b"), "ticket:1")):
        with pytest.raises(Broken):
            seal.open(place, sealed)
    assert "0123" not in repr(MAC)
    with pytest.raises(ValueError, match="16"):
        Mac(b"short")
