"""How long whoever has an answer waits for its settlement: briefly, for the ledger sees it through by itself."""

from __future__ import annotations

import asyncio
from typing import Any

_PATIENCE_S = 0.5  # an answer waits so long for its settlement; it goes on without


def briefly(closing: asyncio.Future[Any]) -> asyncio.Future[None]:
    """Return what is done when *closing* is, or soon."""
    if closing.done():  # well or not: nobody here is told of a failure
        return nothing()
    # The ledger sees it through by itself, whether we are cancelled here or not; nobody's answer waits long for it.
    # asyncio.wait would do the same for three times the cost, on the way of every call.
    loop = asyncio.get_running_loop()
    enough: asyncio.Future[None] = loop.create_future()

    def release(_: object = None) -> None:
        timer.cancel()
        if not enough.done():
            enough.set_result(None)

    timer = loop.call_later(_PATIENCE_S, release)
    closing.add_done_callback(release)
    return enough


def nothing() -> asyncio.Future[None]:
    """Return what is done."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    done.set_result(None)
    return done
