"""The audit, read: a test of the promise is worth what its reading is."""

from __future__ import annotations

import pytest

from audit import Audit, Move
from windows import worst_window

TAKEN, BACK, AGAIN = Move(1, "a", 3), Move(2, "a", -3), Move(3, "b", 3)


def test_given_back():
    """What came back may be granted again within the window; who kept its grant is known."""
    said = Audit((TAKEN, BACK, AGAIN))
    assert said.unsound() == []
    assert said.kept == [AGAIN]
    assert worst_window(said.net, rate_per_minute=1, capacity=3).is_kept
    assert not worst_window([(move.at_us, move.tokens) for move in said.grants], rate_per_minute=1, capacity=3).is_kept


def test_until_last_grant():
    """What comes back after the last grant nobody could use."""
    assert Audit((TAKEN, BACK, AGAIN, Move(4, "b", -1))).until_last_grant == [(1, 3), (2, -3), (3, 3)]


@pytest.mark.parametrize(
    ("moves", "wrong"),
    [
        ((TAKEN, TAKEN), ["a was granted twice"]),
        ((TAKEN, Move(2, "a", -1), Move(3, "a", -1)), ["a gave back twice"]),
        ((TAKEN, Move(2, "a", -4)), ["a gave back 4 of 3"]),
        ((BACK, TAKEN), ["a gave back 3 of 0"]),
        ((TAKEN, Move(2, "a", -1, "1"), Move(3, "a", -1)), []),
        ((TAKEN, Move(2, "a", -1, "1"), Move(3, "a", -1, "1")), ["a gave back twice"]),
        ((TAKEN, Move(2, "a", -2, "1"), Move(3, "a", -2)), ["a gave back 2 of 1"]),
    ],
)
def test_unsound(moves, wrong):
    """A bucket that is filled by what was never taken from it is seen, though the windows of such an audit look whole."""
    assert Audit(moves).unsound() == wrong
