"""
The command line: `headrace serve` and its kin.

A command imports what it needs when it runs, so that `headrace --help` is quick and `serve` can start its Valkey before gRPC
is loaded. What can be expected to go wrong ends with one clear sentence on stderr: exit code 2 for a wrong configuration, 3 for
what is not there, 1 for everything else.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace import backups, explaining, keyring, letterbox, overview, steering, ticketing
from headrace.doctor import command
from headrace.errors import ConfigError, HeadraceError, StartupError
from headrace.terminal import (
    NOT_THERE,
    Absent,
    ConfigOption,
    JsonOption,
    KeyOption,
    Noted,
    ReasonOption,
    ask_daemon,
    echo_json,
    load,
    note,
    plain,
    print_table,
    with_link,
)
from headrace.top.command import top

if TYPE_CHECKING:
    from headrace.cache.selector import Selector
    from headrace.config import Settings
    from headrace.link import Link
    from headrace.v1.usage_service_pb2 import GetUsageRequest

app = typer.Typer(
    help="A daemon between your services and the Anthropic API: it caches, shares, meters and retries.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
config_app = typer.Typer(help="Look at the configuration.", no_args_is_help=True)
cache_app = typer.Typer(help="Look into the cache of the running daemon, or empty it.", no_args_is_help=True)
app.add_typer(config_app, name="config")
app.add_typer(cache_app, name="cache")
steering.add_to(app)
overview.add_to(app)
explaining.add_to(app)
ticketing.add_to(app)
keyring.add_to(app)
letterbox.add_to(app)
app.command()(top)
command.add_to(app)
backups.add_to(app)


def run() -> None:
    """Run the command line, and say expected errors without a traceback."""
    try:
        app()
    except ConfigError as error:
        _leave(error, 2)
    except Absent as error:
        _leave(error, NOT_THERE)
    except (StartupError, HeadraceError) as error:
        _leave(error, 1)


def _leave(error: Exception, code: int) -> None:
    typer.echo(f"headrace: {error}", err=True)
    sys.exit(code)


def _print_version(wanted: bool) -> None:
    if wanted:
        from headrace import about

        typer.echo("\n".join(about.lines()))
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[bool, typer.Option("--version", "-V", callback=_print_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Run one of the commands below."""


@app.command()
def serve(config: ConfigOption = None) -> None:
    """Run the daemon."""
    settings, reload = load(config)
    from headrace import daemon

    daemon.serve(settings, reload)


@app.command()
def worker(config: ConfigOption = None) -> None:
    """Run a worker that makes the attempts of parked and submitted calls, beside daemons on the same Redis."""
    settings, _ = load(config)
    from headrace import daemon

    daemon.work(settings)


# The options of these are read by programs of their own, so that only who runs one waits for it to be imported.
_ITS_OWN = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.command(context_settings=_ITS_OWN)
def simulate(context: typer.Context) -> None:
    """Run a stand-in for the Anthropic API, to rehearse a configuration on."""
    from headrace.simulator import command

    _hand_on(context, command.simulate)


@app.command(context_settings=_ITS_OWN)
def rehearse(context: typer.Context) -> None:
    """Say what a configuration would do to some traffic: who waits, who is refused, how much of each limit is used."""
    from headrace.rehearse import command

    _hand_on(context, command.rehearse)


def _hand_on(context: typer.Context, command: Callable[..., None]) -> None:
    program = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    program.command()(command)
    program(args=context.args, prog_name=f"headrace {context.info_name}")


@app.command()
def demo(
    upstream: Annotated[str, typer.Option(help="Ask this API instead of the simulator; needs ANTHROPIC_API_KEY.")] = "",
) -> None:
    """Show the main job in under a minute, on loopback."""
    from headrace import demo as show

    raise typer.Exit(show.run(upstream or None))


# The configuration.


@config_app.command("check")
def check_config(
    config: ConfigOption = None,
    as_json: JsonOption = False,
    live: Annotated[bool, typer.Option("--live", help="Try Redis, upstream and the ports, too.")] = False,
    only_file: Annotated[bool, typer.Option("--only-file", help="Not whether this machine has what it needs.")] = False,
) -> None:
    """Say whether the configuration is right, and the daemon could start with it here, and what in it is doubtful."""
    from headrace import needs
    from headrace.config import find_file, warnings

    settings, _ = load(config)
    path, doubtful = find_file(config, os.environ), warnings(settings, os.environ)
    unmet = [] if only_file else needs.unmet(settings, os.environ)
    if as_json:
        told = {"ok": not unmet, "errors": list(map(str, unmet)), "warnings": list(map(str, doubtful))}
        echo_json({"file": str(path) if path else None, **told})
    else:
        for warning in doubtful:
            typer.echo(f"warning: {warning}", err=True)
        for error in unmet:
            typer.echo(f"headrace: {error}", err=True)
    if unmet:
        raise typer.Exit(2 if isinstance(unmet[0], ConfigError) else 1)
    if not as_json:
        typer.echo(f"{path or 'no file, defaults and environment'}: ok")
    if live:
        command.check_live(settings)


@config_app.command("show")
def show_config(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Print the configuration as it is in force, environment and defaults included, secrets hidden."""
    from headrace.config import toml

    settings, _ = load(config)
    if as_json:
        echo_json(settings.redacted())
    else:
        typer.echo(toml.dumps(settings.redacted()), nl=False)


# The cache.


@cache_app.command("stats")
def show_cache(config: ConfigOption = None, as_key: KeyOption = "", as_json: JsonOption = False) -> None:
    """Print what each tier holds and did, as the running daemon sees it."""
    from rich.filesize import decimal

    from headrace.v1.cache_service_pb2 import GetCacheStatsRequest

    reply = ask_daemon(config, as_key, "Cache", "GetCacheStats", GetCacheStatsRequest())
    if as_json:
        echo_json(plain(reply))
        return
    rows = [
        (
            tier.tier,
            f"{tier.entry_count}",
            f"{decimal(tier.size_bytes)} of {decimal(tier.max_size_bytes)}",
            *map(str, (tier.hit_count, tier.miss_count, tier.store_count, tier.drop_count, tier.error_count)),
        )
        for tier in reply.tiers
    ]
    print_table(("tier", "entries", "size", "hits", "misses", "stores", "drops", "errors"), rows)


@cache_app.command("purge")
def purge_cache(
    key: Annotated[str, typer.Option(help="One answer, by the key that Cache-Status named.")] = "",
    caller: Annotated[str, typer.Option(help="The answers of this caller.")] = "",
    model: Annotated[str, typer.Option(help="The answers of this model.")] = "",
    all: Annotated[bool, typer.Option("--all", help="Everything.")] = False,
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove kept answers from every tier on every host, whether or not a daemon runs here."""
    from headrace.cache.selector import Selector

    chosen: dict[str, Any] = {
        name: value for name, value in {"fingerprint": key, "scope": caller, "model": model, "all": all}.items() if value
    }
    if len(chosen) != 1:
        raise typer.BadParameter("give one of --key, --caller, --model and --all")
    settings, _ = load(config)
    words = next((f"{name}={value}" for name, value in chosen.items() if name != "all"), "all")
    count = with_link(settings, lambda link: _purge(settings, link, Selector(**chosen), Noted("cache.purged", words, reason)))
    if as_json:
        echo_json({"purged": count})
    else:
        typer.echo(f"purged {count} entries from Redis; every daemon drops its own")


async def _purge(settings: Settings, link: Link, selector: Selector, said: Noted) -> int:
    # Through Redis, not through a daemon: who may write there may purge for all callers, and daemons that are down hear of it
    # when they are back.
    from headrace.cache.tiered import Cache
    from headrace.clock import SystemClock

    nowhere = Path(settings.state.dir)
    redis = settings.cache.redis
    cache = Cache(link, SystemClock(), directory=nowhere, memory=0, disk=0, redis=redis, max_entry=settings.cache.max_entry)
    count = await cache.purge(selector)
    await note(link, said)
    return count


# Usage.


@app.command("usage")
def show_usage(
    by: Annotated[str, typer.Option(help="Add up by these, with commas between: caller, team, model, lane, label.NAME.")] = "",
    since: Annotated[str, typer.Option(help='How long ago it begins, as "30d", or when, as "2026-11-01"; by UTC.')] = "1d",
    until: Annotated[str, typer.Option(help="When it ends, in the same ways; now by default.")] = "0",
    per: Annotated[str, typer.Option(help="Cut into rows by minute, day or month.")] = "",
    caller: Annotated[str, typer.Option(help="Only of these callers: a pattern, as are the next four.")] = "",
    team: Annotated[str, typer.Option(help="Only of these teams.")] = "",
    model: Annotated[str, typer.Option(help="Only of these models.")] = "",
    lane: Annotated[str, typer.Option(help="Only of these lanes.")] = "",
    labels: Annotated[str, typer.Option(help='Only of these labels, as in "*feature=search*".')] = "",
    as_csv: Annotated[bool, typer.Option("--csv", help="Every figure, as CSV.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Every figure, as JSON.")] = False,
    export_traffic: Annotated[Path | None, typer.Option(help="Write the calls that are kept into this file.")] = None,
    config: ConfigOption = None,
    as_key: KeyOption = "",
) -> None:
    """Print what was used, what it cost, and what the cache and sharing saved."""
    from headrace.usage import show

    if export_traffic is not None:
        _export_traffic(config, export_traffic)
        return
    request = _usage_request(since, until, per, caller=caller, team=team, model=model, lane=lane, labels=labels)
    groups = [name.strip() for name in by.split(",") if name.strip()]
    request.group_by.extend(groups)
    reply = ask_daemon(config, as_key, "Usage", "GetUsage", request)
    rows = [show.flat(row, groups, has_times=bool(per)) for row in reply.rows]
    if as_csv or as_json:
        typer.echo(show.as_csv(rows) if as_csv else show.as_json(rows))
        return
    print_table(show.columns(groups, has_times=bool(per)), [show.cells(row, groups, has_times=bool(per)) for row in rows])
    typer.echo(f"{reply.since_time.ToDatetime():%Y-%m-%d %H:%M} to {reply.until_time.ToDatetime():%Y-%m-%d %H:%M} UTC")


def _usage_request(since: str, until: str, per: str, **globs: Any) -> GetUsageRequest:
    from datetime import UTC, datetime

    from headrace.usage import show
    from headrace.v1 import usage_service_pb2

    now = datetime.now(UTC)
    try:
        request = usage_service_pb2.GetUsageRequest(**globs)
        request.since_time.FromDatetime(show.moment(since, now))
        request.until_time.FromDatetime(show.moment(until, now))
        request.granularity = usage_service_pb2.UsageGranularity.Value(f"USAGE_GRANULARITY_{per.upper() or 'UNSPECIFIED'}")
    except (ValueError, OverflowError):
        raise typer.BadParameter('give --since and --until as "30d" or "2026-11-01", --per as minute, day or month') from None
    return request


def _export_traffic(option: Path | None, path: Path) -> None:
    # From Redis, as a purge goes there: whoever may read it may read all callers' lines.
    from headrace.clock import SystemClock
    from headrace.prices import Prices
    from headrace.usage import Store, Tally

    settings, _ = load(option)
    lines = with_link(settings, lambda link: Store(link, SystemClock(), Tally(Prices())).lines())
    if not lines:
        raise StartupError('there are no lines of traffic; they are kept where the daemon runs with usage.traffic = "on"')
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    typer.echo(f"{len(lines)} calls in {path}")
