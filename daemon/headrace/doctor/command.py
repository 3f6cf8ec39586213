"""
The commands that look whether all is well: `headrace doctor`, and `headrace config check --live` of it.

Exit code 0: nothing fails, though there may be warnings; 1: something fails; 2: the configuration is wrong.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.terminal import ConfigOption, load

if TYPE_CHECKING:
    from headrace.config import Settings
    from headrace.doctor.finding import Finding


def add_to(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("doctor")(doctor)


def doctor(
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="All findings, as JSON.")] = False,
) -> None:
    """Look whether all is well: configuration, machine, Redis, upstream, the other hosts; and say what to do."""
    from headrace.doctor import machine

    settings, _ = load(config)
    _tell([*machine.examine(settings, os.environ), *asyncio.run(_beyond(settings, has_hosts=True))], as_json)


def check_live(settings: Settings) -> None:
    """Try Redis and upstream, and print what is found; ends the program with exit code 1 if something fails."""
    _tell(asyncio.run(_beyond(settings)), as_json=False)


async def _beyond(settings: Settings, *, has_hosts: bool = False) -> list[Finding]:
    """Return what there is to say of what lies beyond this machine."""
    from headrace.config import redis_url
    from headrace.doctor import hosts, redis, upstream
    from headrace.doctor.finding import ok
    from headrace.embedded import running_url

    url = redis_url(settings) or running_url(Path(settings.state.dir, "valkey"))
    api = upstream.examine(settings, os.environ)
    if not url:
        return [ok("redis", "our own Valkey, which runs while the daemon does"), *await api]
    found, said = await asyncio.gather(redis.examine(settings, url), api)
    return [*found, *said, *(await hosts.examine(settings, url) if has_hosts else [])]


def _tell(findings: Iterable[Finding], as_json: bool) -> None:
    from headrace.doctor.finding import has_failed

    findings = list(findings)
    if as_json:
        typer.echo(json.dumps([found.fields for found in findings], indent=2))
    else:
        typer.echo("\n".join(found.line for found in findings))
    if has_failed(findings):
        raise typer.Exit(1)
