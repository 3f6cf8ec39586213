"""
What commands share: the options that most have, the settings, an RPC to the running daemon, a link to its Redis, tables.

What takes long to import is imported when a command needs it, as in main.py.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from headrace.errors import ConfigError, RedisAway, StartupError
from headrace.trail import ID_HEADER

if TYPE_CHECKING:
    from rich.console import Console

    from headrace.config import Settings
    from headrace.link import Link

T = TypeVar("T")
Ask = Callable[[str, str, Any], Any]  # the service, less that word; the method; the request

_RPC_TIMEOUT_S = 30.0

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="The configuration file; else HEADRACE_CONFIG, else /etc/headrace/config.toml."),
]
KeyOption = Annotated[
    str, typer.Option("--as-key", envvar="HEADRACE_KEY", help="The key to present, where the daemon asks for one.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="All that is known, as JSON.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why, for those who look later.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]

# Exit codes; a wrong configuration or option is 2, and whatever else goes wrong 1.
NOT_THERE, NOT_CONFIRMED, AMISS = 3, 4, 5


class Absent(StartupError):
    """There is no such thing as is named."""


def load(option: Path | None) -> tuple[Settings, Callable[[], Settings]]:
    """Return the settings, and what reads them anew; raises `ConfigError`."""
    from headrace import config

    path = config.find_file(option, os.environ)
    return config.load(path, os.environ), lambda: config.load(path, os.environ)


def ask_daemon(option: Path | None, key: str, service: str, method: str, request: Any) -> Any:
    """Return what the running daemon replies; raises `StartupError` with what it says instead."""
    with asking(option, key) as ask:
        return ask(service, method, request)


@contextmanager
def asking(option: Path | None, key: str) -> Iterator[Ask]:
    """Yield what asks the running daemon as `ask_daemon` does, over one connection for all that is asked."""
    import grpc

    settings, _ = load(option)
    target, metadata = _whom(settings, key)
    with grpc.insecure_channel(target) as channel:
        yield lambda service, method, request: _reply(channel, target, metadata, service, method, request)


def _reply(channel: Any, target: str, metadata: Sequence[tuple[str, str]], service: str, method: str, request: Any) -> Any:
    from importlib import import_module

    import grpc

    stubs = import_module(f"headrace.v1.{service.lower()}_service_pb2_grpc")
    try:
        return getattr(getattr(stubs, f"{service}ServiceStub")(channel), method)(
            request, timeout=_RPC_TIMEOUT_S, metadata=metadata
        )
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNAVAILABLE and not _is_answer(error):
            raise StartupError(f"no daemon answers on {target} (listen.grpc); is it running?") from error
        kind = Absent if error.code() is grpc.StatusCode.NOT_FOUND else StartupError
        raise kind(f"the daemon on {target} says {error.code().name}: {error.details()}") from error


def _is_answer(error: Any) -> bool:
    # Whatever a daemon refuses has an id; what gRPC itself says of a connection that did not come about has none.
    return any(name == ID_HEADER for name, _ in error.trailing_metadata() or ())


def _whom(settings: Settings, key: str) -> tuple[str, list[tuple[str, str]]]:
    """Return where to ask, and what to present there; raises `ConfigError` if the daemon is nowhere."""
    from headrace.config import resolve, runtime_dir

    addresses = _addresses(settings)
    sockets = [each for each in addresses if each.startswith("unix:")]
    found = local_operator(settings) if sockets and not key else []
    target = resolve((sockets if found else addresses)[0], runtime_dir(os.environ, settings))
    return target, found or ([("x-api-key", key)] if key else [])


def local_operator(settings: Settings) -> list[tuple[str, str]]:
    """
    Return what root and the daemon's own user present at its sockets, as who they are; [] for others.

    It is for whoever gives no key: a key says who asks.
    """
    from headrace import passkey

    found = passkey.read(Path(settings.state.dir))
    return [(passkey.HEADER, passkey.said(found, passkey.whoever(os.environ)))] if found else []


def _addresses(settings: Settings) -> Sequence[str]:
    if not settings.listen.grpc:
        raise ConfigError("listen.grpc = []: is empty, and this command talks to the daemon over gRPC; name an address")
    addresses = [each for each in settings.listen.grpc if each.startswith("unix:") or not settings.listen.tls_certificate]
    if not addresses:
        raise ConfigError(
            "listen.grpc: with TLS this command talks to the daemon over its unix socket, and there is none; name one"
        )
    return addresses


def with_link(settings: Settings, work: Callable[[Link], Awaitable[T]]) -> T:
    """Return what *work* does with a link to the Redis of these settings, the daemon's or one that is started for it."""
    from headrace.link import Link
    from headrace.replies import where

    async def go(url: str) -> T:
        link = Link(url)
        try:
            return await work(link)
        except RedisAway as away:
            raise StartupError(f"{away}: {where(url)}") from away
        finally:
            await link.aclose()

    with _redis_url(settings) as url:
        return asyncio.run(go(url))


@contextmanager
def _redis_url(settings: Settings) -> Iterator[str]:
    from headrace.config import redis_url

    if url := redis_url(settings):
        yield url
        return
    with own_redis(settings) as url:
        yield url


@contextmanager
def own_redis(settings: Settings) -> Iterator[str]:
    """Return where our own Valkey listens: the running daemon's, or one that is started for the block."""
    from headrace import logs
    from headrace.embedded import EmbeddedValkey, running_url

    directory = Path(settings.state.dir, "valkey")
    try:
        if url := running_url(directory):
            yield url
            return
    except PermissionError:  # whose it is, is said below
        pass
    own_directory(settings)
    logs.set_up_logs(level=40)  # the server's comings and goings are no news here
    with EmbeddedValkey(directory) as valkey:
        yield valkey.url


def own_directory(settings: Settings) -> Path:
    """Return the state directory; raises `StartupError` where this user would leave there what the daemon's cannot read."""
    from headrace import owned

    directory = Path(settings.state.dir)
    owned.require(directory)
    return directory


@dataclass(frozen=True, slots=True)
class Noted:
    """An act to be audited: what was done to whom, why, and more of what."""

    what: str
    target: str
    reason: str = ""
    details: str = ""


async def note(link: Link, said: Noted) -> None:
    """Audit what a command did by itself; raises `InvalidCall` for a reason that is too long."""
    from headrace import audit, passkey

    by = passkey.whoever(os.environ)
    await audit.Audit(link, tells=False).note(said.what, said.target, by=by, reason=said.reason, details=said.details)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table, as wide as the terminal."""
    from rich import box
    from rich.table import Table

    table = Table(*columns, box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*row)
    console().print(table)


def console() -> Console:
    """Return what prints to standard output. Into a pipe nothing is cut off: whoever reads it there can wait."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 240)


def plain(message: Any) -> dict[str, Any]:
    """Return a message of protobuf as JSON has it, under the names of its fields."""
    from google.protobuf.json_format import MessageToDict

    said: dict[str, Any] = MessageToDict(message, preserving_proto_field_name=True)
    return said


def echo_json(said: Any) -> None:
    """Print JSON."""
    import json

    typer.echo(json.dumps(said, indent=2))


def microseconds(option: str, text: str) -> int:
    """Return a duration as an option has it; raises `typer.BadParameter` for what is none."""
    from headrace import units

    try:
        return round(units.parse_duration(text) * 1e6)
    except ValueError:
        raise typer.BadParameter(f'{option} {text}: give a duration such as "90s", "1h" or "9m30s"') from None


def span(seconds: float) -> str:
    """Return a span as people say it: short ones to the millisecond, others in their two largest units."""
    from headrace.budgets import show

    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 60 else show.span(seconds)


def seconds_of(duration: Any) -> float:
    """Return a duration of protobuf in seconds."""
    return float(duration.ToMicroseconds()) / 1e6


def ago(stamp: Any) -> str:
    """Return how long ago a moment is."""
    import time

    return span(max(0.0, time.time() - stamp.ToMicroseconds() / 1e6))
