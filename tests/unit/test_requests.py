"""Requests to upstream: what HTTP cannot carry is refused before anything is sent."""

from __future__ import annotations

import pytest

from headrace.errors import AttemptFailed
from headrace.upstream.carrying import Body
from headrace.upstream.requests import Requests
from pressing import call


@pytest.mark.parametrize("name", ["x-a: b\r\nx-b", "x a", "", "x:a"])
def test_names(name: str) -> None:
    """A name of a header that HTTP cannot carry is refused, unsent."""
    requests = Requests(str, lambda: "key", str, version="2023-06-01", gap_s=1.0)
    with pytest.raises(AttemptFailed) as refused:
        requests.carried(call(1, within=5.0), ((name, "v"),), Body(b""))
    assert not refused.value.sent
