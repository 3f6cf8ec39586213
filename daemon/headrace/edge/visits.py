"""What a visit to things at upstream (resources/) does to a load that is carried: its body is read, its list is walked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace

from headrace.carry import Load
from headrace.resources import Visit
from headrace.upstream.carrying import Body, onward
from headrace.upstream.client import Carried

Carry = Callable[[Load], AbstractAsyncContextManager[tuple[Carried, int]]]
Read = Callable[[Carried], Awaitable[bytes]]


async def entered(visit: Visit, load: Load) -> Load:
    """Return the load as it may go; raises what speaks against it. A body that goes by is read as it does."""
    await visit.enter(load.headers, onward(load.headers))
    if visit.may_tell:  # so it must come in the clear
        load = replace(load, headers=tuple(pair for pair in load.headers if pair[0] != "accept-encoding"))
    content = load.body.content
    if isinstance(content, bytes):
        await visit.body(content, load.headers)
        return load
    return replace(load, body=Body(visit.passing(content, load.headers), load.body.length))


async def walk(visit: Visit, load: Load, carry: Carry, read: Read) -> tuple[Carried, int, bytes]:
    """Return the first answer of a list, how many attempts all of them took, and the page that the caller is given."""
    listing, first, attempts = visit.listing(load.errand.path), None, 0
    while listing.target:
        async with carry(replace(load, errand=replace(load.errand, path=listing.target))) as (carried, tries):
            body = await read(carried)
        first, attempts = first or carried, attempts + tries
        await visit.keep(listing, body)
    if first is None:
        raise RuntimeError("a list has a first page")
    return first, attempts, listing.body()
