"""Targets: what single words and lines say, in headers, paths and the configuration."""

from __future__ import annotations

import contextlib
import itertools
import tomllib
from pathlib import Path

from tests.fuzz.inputs import ANYBODY, finite, heads, text
from tests.fuzz.target import Target

from headrace import units
from headrace.batches.results import readable
from headrace.cache.control import parse_cache_control
from headrace.callers import is_key
from headrace.classes import ModelClasses
from headrace.config import kinds, reading, toml
from headrace.config.environment import ignored_variables
from headrace.edge.addresses import readdressed
from headrace.edge.asked import endpoint_of
from headrace.edge.http_asks import credential, presented_keys, read_ask
from headrace.edge.origins import Origins
from headrace.edge.waits import read_wait
from headrace.endpoints import MESSAGES
from headrace.errors import ConfigError, InvalidCall, NotAllowed
from headrace.heads import identifier, is_sendable, value_bytes, value_text
from headrace.heads import readable as readable_value
from headrace.labels import header_of, labels_of_header
from headrace.owner import is_name
from headrace.prices import Prices
from headrace.resources.places import place_of
from headrace.unpacking import ENCODINGS, Mispacked, taken, unpacker
from headrace.upstream.answer_heads import without_copies


def duration(data: bytes) -> None:
    seconds = units.parse_duration(text(data))
    finite(seconds)
    assert units.parse_duration(units.format_duration(seconds)) == seconds


def size(data: bytes) -> None:
    found = units.parse_size(text(data))
    assert 0 <= found < 2**63
    assert units.parse_size(units.format_size(found)) == found


def span(data: bytes) -> None:
    found = units.parse_range(text(data))
    assert units.parse_range(units.format_range(found)) == found


def header_value(data: bytes) -> None:
    said = value_text(data)
    assert value_bytes(said) == data
    readable_value(said).encode()
    assert " " not in identifier(said)
    is_sendable(said)


def cache_control(data: bytes) -> None:
    found = parse_cache_control(text(data))
    finite(found.max_age_s, most=2**31)
    finite(found.stale_if_error_s, most=2**31)


def labels(data: bytes) -> None:
    found = labels_of_header(text(data), ANYBODY)
    assert labels_of_header(header_of(found), ANYBODY) == found


def wait(data: bytes) -> None:
    found = read_wait(heads(data), is_http=True)
    for seconds in (found.stated_s, found.implied_s, found.surely_s, found.gives_up_s):
        finite(seconds)


_ORIGINS = (
    Origins(["https://app.example"], ["headrace.internal"], is_open=lambda: True),
    Origins([], [], is_open=lambda: True),
)


def origin(data: bytes) -> None:
    headers = heads(data)
    for origins in _ORIGINS:
        for ask in (origins.check, origins.said, origins.preflight):
            with contextlib.suppress(NotAllowed):
                ask(headers)


def http_ask(data: bytes) -> None:
    headers = heads(data)
    presented_keys(headers)
    key = credential(headers)
    assert not is_key(key.partition(":")[2])
    read_ask(
        ANYBODY, headers, b"", method="POST", path="/v1/messages", endpoint=MESSAGES, credential=key, wait=read_wait(headers)
    )


def path(data: bytes) -> None:
    method, _, target = text(data).partition(" ")
    endpoint_of(method, target)
    place_of(target).kind.is_public(target)


def own_address(data: bytes) -> None:
    """Upstream's address in an answer, for whoever calls us by the name on the first line."""
    host, _, body = data.partition(b"\n")
    readdressed(body, {"host": text(host)}, b"https://api.anthropic.com")


def model_name(data: bytes) -> None:
    name = text(data)
    ModelClasses().of(name)
    Prices().row(name)
    is_name(name)


def accept_encoding(data: bytes) -> None:
    said = text(data)
    readable((("accept-encoding", said),))
    taken(said)


def packed(data: bytes) -> None:
    """What comes packed is unpacked in bounded pieces; whoever has had enough stops."""
    for encoding in ENCODINGS:
        with contextlib.suppress(Mispacked):
            library = unpacker(encoding)
            for piece in itertools.islice(library.pieces(data), _PIECES):
                assert len(piece) <= 1 << 20
            library.end()


_PIECES = 3


def answer_head(data: bytes) -> None:
    assert len(without_copies(data)) <= len(data) + len(": \r")


_SPELLINGS = {
    name: kind.__metadata__[0]
    for name, kind in vars(kinds).items()
    if hasattr(kind, "__metadata__") and isinstance(kind.__metadata__[0], kinds.Spelling)
}


def spelling(data: bytes) -> None:
    """Every kind of value that the configuration has: what is written of what was read is read as the same."""
    said = text(data)
    for name, kind in _SPELLINGS.items():
        with contextlib.suppress(ValueError):
            found = kind.read(said)
            assert name in _HIDING or kind.read(kind.write(found)) == found, name
            repr(found)
            assert name != "Version" or found.isascii()
            assert name != "HttpAddress" or found.rpartition(":")[2].isascii()
    kinds.hide_password(said)


_HIDING = ("HiddenText", "Proxy", "BaseUrl", "RedisUrl")


class _File(type(Path())):  # type: ignore[misc]
    """A file that is only what it holds."""

    held = b""

    def read_text(self, *_: object, **__: object) -> str:
        return self.held.decode()


_FILE = _File("/nowhere/config.toml")


def toml_file(data: bytes) -> None:
    _FILE.held = data
    _load(_FILE, {})


def _load(path: Path | None, environ: dict[str, str]) -> None:
    """Read settings and show them; or be told what is wrong, in words that can be shown."""
    try:
        settings = reading.load(path, environ)
    except ConfigError as error:
        str(error).encode()
        raise
    tomllib.loads(toml.dumps(settings.redacted()))


def environment(data: bytes) -> None:
    lines = (line.partition(b"=") for line in data.split(b"\n"))
    environ = {text(name): text(value) for name, _, value in lines if b"\0" not in name + value}
    list(ignored_variables(environ))
    _load(None, environ)


TARGETS = (
    Target("units.duration", duration, (ValueError,)),
    Target("units.size", size, (ValueError,)),
    Target("units.range", span, (ValueError,), "units.duration", (b"..",)),
    Target("heads.value", header_value),
    Target("cache-control", cache_control),
    Target("labels", labels, (InvalidCall,)),
    Target("waits", wait, (InvalidCall,), "heads"),
    Target("origins", origin, (), "heads"),
    Target("http.ask", http_ask, (InvalidCall,), "heads"),
    Target("http.path", path, (InvalidCall,)),
    Target("http.own-address", own_address),
    Target("models.name", model_name),
    Target("accept-encoding", accept_encoding),
    Target("packed", packed, (), "packed"),
    Target("answer-heads", answer_head, (), "answer-heads"),
    Target("config.kinds", spelling, weight=4),
    Target("config.toml", toml_file, (ConfigError,), weight=8),
    Target("config.environment", environment, (ConfigError,), weight=8),
)
