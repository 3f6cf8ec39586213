"""The filter in front of the disk: never a wrong no, seldom a wrong yes."""

from hypothesis import given
from hypothesis import strategies as st

from headrace.cache.filter import Filter


@given(st.sets(st.text()), st.sets(st.text()))
def test_never_a_wrong_no(first, later):
    """Whatever was added is found."""
    seen = Filter(first)
    for fingerprint in later:
        seen.add(fingerprint)

    assert all(fingerprint in seen for fingerprint in first | later)


def test_seldom_a_wrong_yes():
    """With 50,000 entries fewer than one strange call in 200 is looked for in vain."""
    seen = Filter(f"{name:064x}" for name in range(50_000))

    wrong = sum(f"{name:064x}" in seen for name in range(10**9, 10**9 + 20_000))

    assert wrong < 100


def test_worn():
    """It says when it has taken in too much."""
    seen = Filter(["a"])
    assert not seen.is_worn
    for name in range(100_002):
        seen.add(str(name))
    assert seen.is_worn
    assert repr(seen) == "<Filter [100003 added, worn at 100002]>"
