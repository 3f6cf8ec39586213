"""Labels: those that a caller may send, and clear words for all others."""

from __future__ import annotations

import re

import pytest

from headrace.errors import InvalidCall
from headrace.labels import header_of, labels_of, labels_of_header
from headrace.model import Caller

ANN = Caller("ann", labels=("feature", "env"))


def test_read():
    """They are read in any order, with or without blanks, and told again the same way."""
    labels = labels_of_header("feature=search,  env = prod", ANN)
    assert labels == (("env", "prod"), ("feature", "search"))
    assert labels_of_header(header_of(labels), ANN) == labels
    assert labels_of_header("", Caller("bob")) == ()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("colour=red", "label 'colour' is not one that ann may send: it may send feature, env"),
        ("feature", "'feature' is no label; they look so: feature=search, env=prod"),
        ("feature=a,", "'' is no label"),
        ("feature=", "label feature: a value has 1 to 64 letters"),
        ("feature=" + "x" * 65, "label feature: a value has 1 to 64 letters"),
        ("feature=ü", "label feature: a value has 1 to 64 letters"),
        ("feature=a, feature=b", "label feature: it is there twice"),
    ],
)
def test_refused(text, says):
    """What is no label, or not the caller's, is refused by name, with what is right."""
    with pytest.raises(InvalidCall, match=re.escape(says)) as refused:
        labels_of_header(text, ANN)
    assert refused.value.metadata == {"field": "labels"}


def test_none_allowed():
    """Whoever may send none hears where that is said."""
    with pytest.raises(InvalidCall, match=r"caller\.bob\.labels in the daemon's configuration names none"):
        labels_of([("env", "prod")], Caller("bob"))


def test_few():
    """A call bears a handful of labels."""
    names = tuple("abcdefghi")
    with pytest.raises(InvalidCall, match="9 labels; a call bears 8 at most"):
        labels_of([(name, "x") for name in names], Caller("ann", labels=names))
