"""A form that is read as it comes, in whatever pieces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.simulator.multipart import Part, read
from headrace.simulator.refusals import Refused

KIND = 'multipart/form-data; boundary="xx"'
HEAD = b'--xx\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\nContent-Type: a/b\r\n\r\n'


async def taken(pieces: list[bytes], kind: str = KIND) -> list[tuple[Part, bytes]]:
    """Return the fields of a form."""

    async def body() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    fields: list[tuple[Part, bytes]] = []
    async for item in read(body(), kind):
        if isinstance(item, Part):
            fields.append((item, b""))
        else:
            part, so_far = fields.pop()
            fields.append((part, so_far + item))
    return fields


# Bytes of which a delimiter is made, so that nearly one is common.
content = st.lists(st.sampled_from([b"\r\n--x", b"\r\n--", b"\r", b"\n", b"-", b"x", b"hello", b"\x00"])).map(b"".join)


@given(content.filter(lambda raw: b"\r\n--xx" not in raw), st.lists(st.integers(1, 40), min_size=1))
def test_any_pieces(raw: bytes, sizes: list[int]) -> None:
    """Content is what it was, however the form was cut."""
    form = HEAD + raw + b'\r\n--xx\r\nContent-Disposition: form-data; name="n"\r\n\r\n5\r\n--xx--\r\n'
    pieces, at = [], 0
    while at < len(form):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(form[at : at + size])
        at += size
    assert asyncio.run(taken(pieces)) == [(Part("file", "a.bin", "a/b"), raw), (Part("n", None, ""), b"5")]


@pytest.mark.parametrize(
    ("form", "kind"),
    [
        (HEAD + b"half", KIND),
        (HEAD + b"half\r\n--xx", KIND),
        (b"--xx\r\nContent-Type: a/b\r\n\r\nx\r\n--xx--", KIND),
        (b"--xx\r\n" + b"x" * 20_000, KIND),
        (HEAD + b"x\r\n--xx--", "application/json"),
        (HEAD + b"x\r\n--xx--", "multipart/form-data"),
        (b"", KIND),
    ],
)
async def test_no_form(form: bytes, kind: str) -> None:
    """Half a form, or none, is refused."""
    with pytest.raises(Refused):
        await taken([form], kind)


async def test_all_is_taken_in() -> None:
    """What comes after the form's end is read as well, and means nothing."""
    assert await taken([HEAD + b"x\r\n--xx--", b"\r\nmore", b"--xx\r\n"]) == [(Part("file", "a.bin", "a/b"), b"x")]
