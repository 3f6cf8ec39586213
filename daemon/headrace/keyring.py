"""
The commands for the keys that callers present: `headrace keys create`, `list`, `rotate` and `revoke`.

They write to Redis, and need no daemon: who may write there may make keys. A key is printed once, alone on its line, so that
it can go straight into a file.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from headrace.model import Role
from headrace.terminal import (
    Absent,
    ConfigOption,
    JsonOption,
    Noted,
    ReasonOption,
    echo_json,
    load,
    note,
    print_table,
    with_link,
)

if TYPE_CHECKING:
    from headrace.keystore import Key, KeyStore
    from headrace.link import Link

T = TypeVar("T")

keys_app = typer.Typer(help="Make, list, rotate and revoke the keys that callers present.", no_args_is_help=True)

ExpiresOption = Annotated[str, typer.Option("--expires", help='After how long it is refused, as "90d"; without it, never.')]
IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The key's id, as `keys list` shows it.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.add_typer(keys_app, name="keys")


@keys_app.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="The caller's name.")],
    expires: ExpiresOption = "",
    role: Annotated[
        Role | None, typer.Option(help="What its holder may do, in place of what the configuration says of the caller.")
    ] = None,
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key for a caller and print it: the only time that it is shown."""
    lasts_s = _duration(expires, "--expires")
    key = _with_keys(
        config,
        lambda store: store.create(name, lasts_s=lasts_s, role=role or ""),
        lambda key: Noted("key.created", f"{name} {_id(key)}", reason, f"role={role}" if role else ""),
    )
    _echo_key(key, as_json)


@keys_app.command("rotate")
def rotate_key(
    key_id: IdArgument,
    overlap: Annotated[str, typer.Option(help="For how long the old key is good yet.")] = "1d",
    expires: Annotated[str, typer.Option("--expires", help="After how long the new one is refused; else as the old one.")] = "",
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key in the place of another and print it; the old one is good for a while yet, so that nothing fails."""
    overlap_s, lasts_s = _duration(overlap, "--overlap") or 0.0, _duration(expires, "--expires")
    key = _with_keys(
        config,
        lambda store: store.rotate(key_id, overlap_s=overlap_s, lasts_s=lasts_s),
        lambda key: None if key is None else Noted("key.rotated", key_id, reason, f"new={_id(key)}"),
    )
    if key is None:
        raise Absent(f"there is no key with the id {key_id}, or it has expired")
    _echo_key(key, as_json)


@keys_app.command("list")
def list_keys(
    as_json: Annotated[bool, typer.Option("--json", help="All that is known, as JSON; times in Unix seconds.")] = False,
    config: ConfigOption = None,
) -> None:
    """List the keys; the secrets in them are not kept anywhere."""
    import msgspec

    keys = _with_keys(config, lambda store: store.list())
    if as_json:
        facts = [msgspec.structs.asdict(key) for key in keys]
        typer.echo(msgspec.json.format(msgspec.json.encode(facts)).decode())
        return
    print_table(("id", "caller", "role", "created", "expires", "last used", "digest"), [_row(key) for key in keys])


@keys_app.command("revoke")
def revoke_key(
    target: Annotated[str, typer.Argument(metavar="ID_OR_NAME", help="A key's id, or a caller's name for all its keys.")],
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Revoke a key, or all keys of a caller; every daemon refuses them within a second."""
    count = _with_keys(
        config,
        lambda store: store.revoke(target),
        lambda count: Noted("key.revoked", target, reason, f"keys={count}") if count else None,
    )
    if not count:
        raise Absent(f"there is no key with the id {target}, and none of a caller {target}")
    if as_json:
        echo_json({"revoked": count})
    else:
        typer.echo(f"revoked {count} key{'s' if count > 1 else ''}")


def _echo_key(key: str, as_json: bool) -> None:
    if as_json:
        echo_json({"id": _id(key), "key": key})
    else:
        typer.echo(key)


def _id(key: str) -> str:
    return key.split("_")[1]


def _row(key: Key) -> tuple[str, ...]:
    import time

    expires = _day(key.expires, "never")
    if key.expires is not None and key.expires <= time.time():
        expires += " (over)"
    return key.id, key.name, key.role or "as configured", _day(key.created), expires, _day(key.used, "not seen"), key.hashed


def _day(moment: float | None, absent: str = "") -> str:
    from datetime import UTC, datetime

    return absent if moment is None else f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M} UTC"


def _duration(text: str, option: str) -> float | None:
    from headrace.units import parse_duration

    if not text:
        return None
    try:
        return parse_duration(text)
    except ValueError:
        raise typer.BadParameter(f'{option} is a duration such as "90d" or "12h"') from None


def _with_keys(
    option: Path | None, work: Callable[[KeyStore], Awaitable[T]], noted: Callable[[T], Noted | None] = lambda done: None
) -> T:
    """Return what *work* does with the keys; what that came to is audited, if *noted* says how."""
    from headrace.config import peppers
    from headrace.keystore import Hashing, KeyStore

    settings, _ = load(option)
    hashing = Hashing(peppers(settings, os.environ))

    async def do(link: Link) -> T:
        done = await work(KeyStore(link, hashing=hashing))
        if said := noted(done):
            await note(link, said)
        return done

    return with_link(settings, do)
