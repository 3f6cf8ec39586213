"""Waiting for a step of a grpc.aio call, so that whoever stops waiting ends the call."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

T = TypeVar("T")


class Silent(Exception):
    """The step took too long."""


class Dropped(Exception):
    """The call was cancelled, and not by cancelling the task that waits: it was closed elsewhere."""


async def step(call: Any, awaitable: Awaitable[T], timeout_s: float | None = None) -> T:
    """
    Return what a step of *call* gives; raises `Silent`, `Dropped`, and what the step raises.

    The call ends if the step does not. The step has a task of its own: grpc.aio answers a cancelled wait with a CancelledError
    of its own making, by which nobody could tell a timeout, a closed call and a cancelled task from each other.
    """
    task = asyncio.ensure_future(awaitable)
    try:
        await asyncio.wait((task,), timeout=timeout_s)
        if not task.done():
            raise Silent
        if task.cancelled():
            raise Dropped
        return task.result()
    finally:
        if not task.done():
            call.cancel()
            task.cancel()
