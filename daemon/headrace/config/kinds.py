"""
How single values are spelled in the configuration.

A kind is the Python type of a value, annotated with a `Spelling`: how to read it, how to write it again, and how to tell a
person what would be right. The structs in `tables.py` are made of these; the reader needs to know no other rule.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import PurePosixPath
from typing import Annotated, Any
from urllib.parse import SplitResult, urlsplit

from headrace import units
from headrace.sentinels import SENTINELS, sentinels

_HOST = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?")
_MODE = re.compile(r"0?[0-7]{3}")
# By pattern and not by parsing: also what is no URL, and is shown for that reason, may have a password in it.
_PASSWORD = re.compile(r"://([^:/@?#]*:)?.*@", re.DOTALL)
_OPTION = re.compile(r"(?<=[?&])([^=&]*)=[^&]*")
# What these options of a URL say is no secret; of any other it may be one.
_PLAIN_OPTIONS = re.compile(
    "db|protocol|client_name|max_connections|health_check_interval|socket_(timeout|connect_timeout|keepalive)|retry_on_timeout|"
    "ssl_(cert_reqs|check_hostname|ca_certs|ca_path|certfile|keyfile|min_version)"
)
_PAGES = ("http", "https", "chrome-extension", "moz-extension", "app", "tauri", "vscode-webview", "capacitor", "ionic")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_OPTIONAL_NAME = re.compile(rf"({_NAME.pattern})?")
_DIMENSION = re.compile(rf"caller|model|class|team|workspace|lane|endpoint|label\.{_NAME.pattern}")
_VERSION = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


class Secret(str):
    """A text that shows itself to nobody who merely looks."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'" if self else "''"


class Url(str):
    """A URL whose repr hides the password in it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(hide_password(self))


@dataclass(frozen=True, slots=True)
class CacheWish:
    """What a caller that cannot say it itself wants of the cache: "on", "off", or answers up to `ttl_s` old; 0 is off."""

    text: str = "on"
    ttl_s: float | None = None


@dataclass(frozen=True, slots=True)
class Spelling:
    """
    How a value is written.

    Args:
        right: what would be right, for messages: "must be <right>".
        read: from what TOML gave; raises ValueError.
        write: back to what TOML takes, secrets hidden.
        is_text: whether TOML has it as a text; else as a number.
    """

    right: str
    read: Callable[[Any], Any]
    write: Callable[[Any], Any] = str
    is_text: bool = True


def _text(read: Callable[[str], Any]) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if not isinstance(value, str):
            raise ValueError("is no text")
        return read(value)

    return check


def _size(value: Any) -> int:
    return 0 if value == 0 and type(value) is int else units.parse_size(_text(str)(value))


def _backoff(text: str) -> tuple[float, float]:
    low, high = units.parse_range(text)
    if low <= 0:
        raise ValueError("would retry without any pause")
    return low, high


def _usd(value: Any) -> float:
    if type(value) not in (int, float) or not 0 < value < 1e9:
        raise ValueError("is no amount")
    return float(value)


def _amount(value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value <= 1_000_000:
        raise ValueError("is no amount")
    return float(value)


def _share(value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value <= 1:
        raise ValueError("is no share")
    return float(value)


def _plain_number(value: float | None) -> float | None:
    return value


def _secret(text: str) -> Secret:
    text = text.strip()
    if not is_usable_key(text):
        raise ValueError("is no key")
    return Secret(text)


def is_usable_key(text: str) -> bool:
    """Whether *text* can be sent in a header: printable ASCII without blanks; "" passes."""
    return text.isascii() and text.isprintable() and " " not in text


def _split(text: str) -> SplitResult:
    parts = urlsplit(text)
    _ = parts.port  # raises ValueError unless it is a number
    return parts


def _http_url(text: str) -> Url:
    parts = _split(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise ValueError("is no base URL")
    return Url(text.rstrip("/"))


def _redis_url(text: str) -> Url:
    if text.startswith(SENTINELS):
        sentinels(text)  # raises ValueError where it names none
        return Url(text)
    parts = _split(text)
    has_place = bool(parts.path) if parts.scheme == "unix" else bool(parts.hostname)
    if text and (parts.scheme not in ("redis", "rediss", "unix") or not has_place):
        raise ValueError("is no Redis URL")
    return Url(text)


def _proxy(text: str) -> Url:
    if text in ("", "off"):
        return Url(text)
    parts = _split(text)
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or parts.path not in ("", "/")
        or parts.query
        or parts.fragment
    ):
        raise ValueError("is no proxy")
    return Url(text.rstrip("/"))


def is_proxy(text: str) -> bool:
    """Whether *text* is the URL of a proxy that can be used."""
    try:
        return _proxy(text) not in ("", "off")
    except ValueError:
        return False


def _origin(text: str) -> str:
    parts = _split(text)
    if (
        parts.scheme.lower() not in _PAGES
        or not parts.hostname
        or parts.path
        or parts.query
        or parts.fragment
        or parts.username
    ):
        raise ValueError("is no origin")
    return text.lower()


def _host_name(text: str) -> str:
    if not _HOST.fullmatch(text):
        raise ValueError("is no name")
    return text.lower()


def _cache_wish(text: str) -> CacheWish:
    return CacheWish(text, None if text == "on" else 0.0 if text == "off" else units.parse_duration(text))


def _optional(read: Callable[[str], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else _text(read)(value)


def hide_password(url: str) -> str:
    """Return the URL with *** for the password, for a user without one, and for options that may be secret."""
    ahead, at, rest = url.rpartition(
        "@"
    )  # past the last there is no password, and a long rest would be looked through once a "://"
    without = _PASSWORD.sub(lambda found: f"://{found[1] or ''}***@", ahead + at) + rest
    return _OPTION.sub(lambda found: found[0] if _PLAIN_OPTIONS.fullmatch(found[1]) else f"{found[1]}=***", without)


def split_address(text: str) -> tuple[str, int]:
    """Return host and port of "127.0.0.1:7480", "[::1]:7480" or "localhost:7480"; raises ValueError."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        ip_address(host)
    elif not _HOST.fullmatch(host):
        raise ValueError("has no host")
    if not colon or not (port.isascii() and port.isdecimal()) or int(port) > 65_535:
        raise ValueError("has no port")
    return host, int(port)


def _http_address(text: str) -> str:
    split_address(text)
    return text


def _grpc_address(text: str) -> str:
    if not text.startswith("unix:"):
        split_address(text)
        return text
    path = text.removeprefix("unix:")
    if path.startswith("//"):
        path = path[2:]
        if not path.startswith("/"):
            raise ValueError("is no path: three slashes, or none")
    if path.startswith("//"):  # it would be read anew as the beginning of a URL
        path = "/" + path.lstrip("/")
    if not path or path.endswith("/") or "\0" in path:
        raise ValueError("is no path")
    return f"unix:{path}"


def _folder(text: str) -> str:
    path = PurePosixPath(text)
    if not path.is_absolute() or "\0" in text:
        raise ValueError("is no absolute path")
    return str(path)


def _matching(pattern: re.Pattern[str]) -> Callable[[str], str]:
    def check(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError("does not look so")
        return text

    return check


Duration = Annotated[
    float, Spelling('a duration such as "90s", "1h" or "9m30s"', _text(units.parse_duration), units.format_duration)
]
OptionalDuration = Annotated[
    float | None,
    Spelling(
        'a duration such as "90s", "1h" or "9m30s"',
        _optional(units.parse_duration),
        lambda seconds: None if seconds is None else units.format_duration(seconds),
    ),
]
Wish = Annotated[CacheWish, Spelling('"on", "off", or a duration such as "10m"', _text(_cache_wish), lambda wish: wish.text)]
Proxy = Annotated[Url, Spelling('empty, "off", or a URL such as "http://proxy.internal:3128"', _text(_proxy), hide_password)]
Origin = Annotated[
    str, Spelling('an origin such as "https://app.example" or "http://localhost:3000", without a path', _text(_origin))
]
HostName = Annotated[str, Spelling('a name such as "headrace.internal", without a port', _text(_host_name))]
Size = Annotated[int, Spelling('a size such as "64MB" or "1GiB", or 0', _size, units.format_size)]
Amount = Annotated[float, Spelling("a number from 0 to 1000000, such as 3 or 0.25", _amount, float, is_text=False)]
OptionalAmount = Annotated[
    float | None, Spelling("a number from 0 to 1000000, such as 3 or 0.25", _amount, _plain_number, is_text=False)
]
Backoff = Annotated[
    tuple[float, float],
    Spelling('two durations, the shorter one first, as in "0.5s..30s", both more than 0', _text(_backoff), units.format_range),
]
HiddenText = Annotated[
    Secret, Spelling("a key in one line of printable ASCII", _text(_secret), lambda secret: "***" if secret else "")
]
BaseUrl = Annotated[Url, Spelling('a URL such as "https://api.anthropic.com"', _text(_http_url), hide_password)]
RedisUrl = Annotated[
    Url,
    Spelling(
        'empty, or a URL such as "redis://host:6379/0", "rediss://user:password@host:6379", "unix:///run/redis.sock" or '
        '"redis+sentinel://host:26379,host:26379/NAME/0"',
        _text(_redis_url),
        hide_password,
    ),
]
HttpAddress = Annotated[str, Spelling('an address such as "127.0.0.1:7480" or "[::1]:7480"', _text(_http_address))]
OptionalHttpAddress = Annotated[
    str,
    Spelling('empty, or an address such as "127.0.0.1:7482"', _text(lambda text: _http_address(text) if text else "")),
]
GrpcAddress = Annotated[
    str, Spelling('an address such as "127.0.0.1:7400", "unix:headrace.sock" or "unix:/run/h.sock"', _text(_grpc_address))
]
Folder = Annotated[str, Spelling('an absolute path such as "/var/lib/headrace"', _text(_folder))]
SecretFile = Annotated[str, Spelling('an absolute path such as "/etc/headrace/api_key"', _text(_folder))]
OptionalFile = Annotated[
    str,
    Spelling('empty, or an absolute path such as "/etc/headrace/admin_key"', _text(lambda text: _folder(text) if text else "")),
]
CertificateName = Annotated[
    str,
    Spelling(
        'a name in a certificate, such as "checkout.internal" or "spiffe://example.org/checkout"',
        _text(_matching(re.compile(r"[!-~]{1,255}"))),
    ),
]
Mode = Annotated[str, Spelling('permissions in octal, such as "0660"', _text(_matching(_MODE)))]
Version = Annotated[str, Spelling('an API version such as "2023-06-01"', _text(_matching(_VERSION)))]
Glob = Annotated[str, Spelling('a pattern such as "claude-*", or "*" for any', _text(_matching(re.compile(r".+", re.DOTALL))))]
DimensionName = Annotated[
    str,
    Spelling(
        'one of "caller", "model", "class", "team", "workspace", "lane", "endpoint" or "label.NAME"',
        _text(_matching(_DIMENSION)),
    ),
]
Name = Annotated[str, Spelling("1 to 64 letters, digits, dots, underscores or hyphens", _text(_matching(_NAME)))]
OptionalName = Annotated[
    str,
    Spelling("empty, or 1 to 64 letters, digits, dots, underscores or hyphens", _text(_matching(_OPTIONAL_NAME))),
]
OptionalUsd = Annotated[
    float | None, Spelling("an amount in USD such as 25 or 0.5, more than 0", _usd, _plain_number, is_text=False)
]
Share = Annotated[float, Spelling("a number from 0 to 1", _share, _plain_number, is_text=False)]
EndpointGlob = Annotated[
    str, Spelling('empty, or a pattern such as "batches", "count_tokens" or "*" for every endpoint', _text(str))
]
