"""
Answers that come packed: what was asked for is unpacked, in one layer. Whoever packs in another way, or twice, was not asked
to, and is refused.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from headrace import unpacking
from headrace.unpacking import CutOff, Mispacked
from headrace.upstream.network import DecodingError


async def unpacked(packed: AsyncIterator[bytes], encoding: str, asked: str) -> AsyncIterator[bytes]:
    """
    Yield the pieces of a body less its encoding.

    Args:
        encoding: as the answer names it.
        asked: the `accept-encoding` of the request.

    Raises `DecodingError` for an encoding that was not asked for, and for what is not packed so.
    """
    name = unpacking.name_of(encoding)
    if name not in unpacking.ENCODINGS or name not in unpacking.taken(asked):
        raise DecodingError("the answer is packed in a way that was not asked for")
    try:
        async for piece in unpacking.unpacked(packed, name):
            yield piece
    except CutOff:
        return  # whoever reads the answer sees that it is not whole, which a repeat may be
    except Mispacked as error:
        raise DecodingError("the answer is not packed as it says") from error
