"""Which encoding is agreed on, and that each part can be read when it comes."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import brotli
import pytest
import zstandard

from headrace.simulator.encodings import agreed, encoder
from headrace.simulator.options import ENCODINGS

READERS: dict[str, Callable[[], Callable[[bytes], bytes]]] = {
    "gzip": lambda: zlib.decompressobj(wbits=31).decompress,
    "br": lambda: brotli.Decompressor().process,
    "zstd": lambda: zstandard.ZstdDecompressor().decompressobj().decompress,
}


@pytest.mark.parametrize("name", ENCODINGS)
def test_part_by_part(name: str) -> None:
    """A part can be read as soon as it was sent."""
    packer, reader = encoder(name), READERS[name]()
    assert packer
    for part in (b"event: ping\n\n", bytes(range(256)) * 64, b"last"):
        assert reader(packer.encode(part)) == part
    assert reader(packer.finish()) == b""


@pytest.mark.parametrize(
    ("offered", "accepted", "name"),
    [
        (("br", "gzip"), "gzip, br", "br"),
        (("br", "gzip"), "gzip", "gzip"),
        (("br", "gzip"), "BR;q=0, GZIP;q=0.5", "gzip"),
        (("br",), "*", "br"),
        (("br",), "*, br;q=0", ""),
        (("br",), "gzip", ""),
        (("br",), "br;q=x", ""),
        (("br",), "", ""),
        ((), "gzip", ""),
    ],
)
def test_agreed(offered: tuple[str, ...], accepted: str, name: str) -> None:
    """The first one offered that the caller takes."""
    assert agreed(offered, accepted) == name
