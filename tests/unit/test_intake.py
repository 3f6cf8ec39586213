"""Whose messages are ended while too much is coming: the largest, and one of the largest is let through beside small ones."""

from __future__ import annotations

from collections import Counter

import pytest

from headrace.edge.grpc_intake import too_many


@pytest.mark.parametrize(
    ("megabytes", "ended"),
    [
        pytest.param([64], [], id="one of the largest"),
        pytest.param([31, 31], [], id="two that upstream takes"),
        pytest.param([31, 31, 31], [1], id="a third"),
        pytest.param([60, 60, 60], [1, 2], id="those that nobody takes"),
        pytest.param([60, 33], [0], id="more than there is room for"),
        pytest.param([40] + [6] * 5, [0], id="in all"),
        pytest.param([31] + [6] * 6, [1], id="a large one beside a flood"),
        pytest.param([6] * 40, list(range(1, 35)), id="a flood"),
    ],
)
def test_too_many(megabytes: list[int], ended: list[int]) -> None:
    size = Counter({("192.0.2.1", port): mb * 1_000_000 for port, mb in enumerate(megabytes)})
    assert sorted(port for _, port in too_many(size)) == ended
