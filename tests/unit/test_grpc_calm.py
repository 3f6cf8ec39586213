"""The moment at which a server of gRPC's can be stopped: when no call has come for a moment, and not later than it must."""

from __future__ import annotations

import asyncio
import itertools
import time

import pytest

from headrace.edge import grpc_calm
from headrace.edge.grpc_calm import calm


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(grpc_calm, "_LOOK_S", 0.005)


async def test_nobody_comes():
    """It takes a few looks, and what is left of the grace is told."""
    assert 9.0 < await calm(lambda: 7, 10.0) < 10.0
    assert await calm(lambda: 7, 0.0) == 0.0, "where a drain has no time, too"


async def test_somebody_comes():
    """As long as calls come it waits, and from the last one on a few looks more."""
    coming = asyncio.create_task(asyncio.sleep(0.1))
    numbers = itertools.count()
    await calm(lambda: 0 if coming.done() else next(numbers), 10.0)
    assert coming.done()


async def test_always_somebody():
    """Who asks on without a pause does not use up the drain."""
    numbers, began = itertools.count(), time.monotonic()
    assert 1.0 < await calm(lambda: next(numbers), 2.0) <= 1.5
    assert time.monotonic() - began >= 0.5
