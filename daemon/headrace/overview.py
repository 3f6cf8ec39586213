"""
The commands that show all of it and take hosts out of service: `headrace status`, `hosts`, `drain` and `audit`.

All of them ask the running daemon, over OperatorService. Exit codes: 0, done; 1, the daemon cannot be asked, or says no; 2, a
wrong configuration or option; 3, there is no such host; 5, `status --check` found something amiss.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace.errors import StartupError
from headrace.terminal import (
    AMISS,
    Ask,
    ConfigOption,
    JsonOption,
    KeyOption,
    ReasonOption,
    ago,
    ask_daemon,
    asking,
    echo_json,
    microseconds,
    plain,
    print_table,
    seconds_of,
    span,
)

if TYPE_CHECKING:
    from headrace.v1.operator_service_pb2 import Act, GetStatusResponse, Host

HOSTS = ("process", "kind", "state", "version", "config", "redis", "worker", "has", "waits", "up", "serves")
FULLEST = ("limit", "bucket", "counts", "used", "waiting")
ACTS = ("when", "by", "what", "to", "why", "more")

_LOOK_EVERY_S = 0.5


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("status")(status)
    app.command("hosts")(hosts)
    app.command("drain")(drain)
    app.command("audit")(audit)


def status(
    check: Annotated[bool, typer.Option("--check", help="End with exit code 5 if anything is amiss.")] = False,
    config: ConfigOption = None,
    as_key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Show on one screen how all of it stands: hosts, upstream, the fullest limits, tickets, callers on hold."""
    from headrace.v1.operator_service_pb2 import GetStatusRequest

    reply = ask_daemon(config, as_key, "Operator", "GetStatus", GetStatusRequest())
    amiss = list(wrongs(reply))
    if as_json:
        echo_json(plain(reply) | {"amiss": amiss})
    else:
        _show_status(reply, amiss)
    if check and amiss:
        raise typer.Exit(AMISS)


def wrongs(reply: GetStatusResponse) -> Iterator[str]:
    """Yield what is amiss, a line each."""
    from headrace.v1 import operator_service_pb2 as pb

    for host in reply.hosts:
        if host.state not in (pb.HOST_STATE_SERVING, pb.HOST_STATE_UNSPECIFIED):
            yield f"{host.instance} is {_state(host)}: {'; '.join(host.wrong) or 'draining'}"
        yield from (f"{host.instance}: {said}" for said in host.degraded)
        if host.worker_trouble:
            yield f"{host.instance} makes no attempts of tickets: {host.worker_trouble}"
    if len(reply.config_hashes) > 1:
        yield f"the configurations of hosts differ: {', '.join(reply.config_hashes)} (headrace hosts)"
    if len(reply.versions) > 1:
        yield f"hosts run different versions: {', '.join(reply.versions)}"
    yield from reply.troubles
    if reply.daemons_heard < reply.daemons:
        yield f"{reply.daemons - reply.daemons_heard} of {reply.daemons} processes did not answer in time"


def _show_status(reply: GetStatusResponse, amiss: Sequence[str]) -> None:
    from headrace.budgets import show

    typer.echo("\n".join(f"! {line}" for line in amiss) if amiss else "all is well")
    print_table(HOSTS, [_host(host) for host in reply.hosts])
    if reply.fullest:
        print_table(FULLEST, [_full(full) for full in reply.fullest])
    oldest = f", the eldest of them for {ago(reply.oldest_queued_time)}" if reply.HasField("oldest_queued_time") else ""
    typer.echo(f"tickets: {reply.queued_tickets} wait{oldest}; {reply.running_tickets} run; {reply.dead_letters} dead letters")
    for held in reply.holds:
        typer.echo(f"{show.hold_line(held)}; {held.waiting_calls} calls wait")


def _full(full: Any) -> tuple[str, ...]:
    return full.limit, full.bucket, full.kind, f"{full.used_ratio:.0%}", f"{full.waiting_calls}"


def hosts(config: ConfigOption = None, as_key: KeyOption = "", as_json: JsonOption = False) -> None:
    """List the daemons and workers that share the Redis, and how each stands."""
    from headrace.v1.operator_service_pb2 import ListHostsRequest

    reply = ask_daemon(config, as_key, "Operator", "ListHosts", ListHostsRequest())
    if as_json:
        echo_json(plain(reply))
        return
    print_table(HOSTS, [_host(host) for host in reply.hosts])
    if len(hashes := {host.config_hash for host in reply.hosts if host.config_hash}) > 1:
        typer.echo(f"the configurations differ: {', '.join(sorted(hashes))}")
    for host in reply.hosts:
        for said in (*host.wrong, *host.degraded, *host.troubles):
            typer.echo(f"{host.instance}: {said}")


def _host(host: Host) -> tuple[str, ...]:
    redis = span(seconds_of(host.redis_round_trip)) if host.HasField("redis_round_trip") else "-"
    version = f"{host.version} {host.commit[:7]}".strip() or "?"
    up = ago(host.start_time) if host.HasField("start_time") else "?"
    return (
        host.instance, host.kind, _state(host), version, host.config_hash or "?", redis, host.worker_trouble or "ok",
        f"{host.running_calls}", f"{host.waiting_calls}", up, " ".join(host.addresses),
    )  # fmt: skip


def _state(host: Host) -> str:
    from headrace.v1.operator_service_pb2 import HostState

    said: str = HostState.Name(host.state).removeprefix("HOST_STATE_").lower()
    return "?" if said == "unspecified" else said


def drain(
    host: Annotated[
        str, typer.Argument(metavar="HOST", help="A process, the beginning of its name, or a host; a pattern, as 'web-*'.")
    ],
    undo: Annotated[bool, typer.Option("--undo", help="Put it back into service.")] = False,
    wait: Annotated[str, typer.Option("--wait", help='Wait so long until it has finished what it has, as "5m".')] = "",
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Take a host out of service: it says that it is not ready, refuses new calls, finishes what it has, and stays."""
    from headrace.v1.operator_service_pb2 import DrainHostRequest, ResumeHostRequest

    patience_s = microseconds("--wait", wait) / 1e6 if wait else 0.0
    method, request = ("ResumeHost", ResumeHostRequest) if undo else ("DrainHost", DrainHostRequest)
    with asking(config, as_key) as ask:
        reply = ask("Operator", method, request(host=host, reason=reason))
        names = [each.instance for each in reply.hosts]
        told = [*_wait(names, patience_s, ask)] if wait and not undo else [*reply.hosts]
    if as_json:
        del reply.hosts[:]
        reply.hosts.extend(told)
        echo_json(plain(reply))
        return
    said = "is back in service" if undo else "is drained" if wait else "goes out of service"
    typer.echo("\n".join(f"{name} {said}" for name in names))


def _wait(names: Sequence[str], patience_s: float, ask: Ask) -> Iterator[Host]:
    """Wait until hosts have finished what they have, and yield them as they are then; who has left is none of them."""
    from headrace.v1.operator_service_pb2 import HOST_STATE_DRAINED, ListHostsRequest

    give_up = time.monotonic() + patience_s
    while True:
        there = ask("Operator", "ListHosts", ListHostsRequest()).hosts
        asked = [each for each in there if each.instance in names]
        left = [each.instance for each in asked if each.state != HOST_STATE_DRAINED]
        if not left:
            yield from asked
            return
        if time.monotonic() >= give_up:
            raise StartupError(f"{', '.join(left)} has not finished what it has; it stays out of service")
        time.sleep(_LOOK_EVERY_S)


def audit(
    most: Annotated[int, typer.Option("--most", min=1, max=1000, help="Show so many acts, the latest first.")] = 50,
    config: ConfigOption = None,
    as_key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """List what operators and admins did: who, what, to whom, why."""
    from headrace.v1.operator_service_pb2 import ListActsRequest

    reply = ask_daemon(config, as_key, "Operator", "ListActs", ListActsRequest(page_size=most))
    if as_json:
        echo_json([plain(act) for act in reply.acts])
        return
    print_table(ACTS, [_act(act) for act in reply.acts])


def _act(act: Act) -> tuple[str, ...]:
    return f"{act.time.ToDatetime():%Y-%m-%d %H:%M:%S}", act.by, act.what, act.target, act.reason, act.details
