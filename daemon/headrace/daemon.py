"""
The daemon's life: start, serve, reload, drain, leave.

Three phases, in this order in the code too. Starting takes what can be occupied (the state directory, Valkey, addresses) and
fails with a clear word if it cannot; Redis being away is no reason not to start. While it serves, a heartbeat once a second
looks whether all is well, and tells health, systemd and whoever scrapes. Draining says so first (health, readiness), then
refuses new calls, lets what runs finish or parks it, and then gives everything back in the opposite order.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from redis.exceptions import RedisError

from headrace import guard, logs, needs, observe, passkey, room, schema
from headrace.background import Background
from headrace.condition import Condition
from headrace.config import Settings, redis_url, runtime_dir, seal, warnings
from headrace.embedded import EmbeddedValkey
from headrace.errors import ConfigError, RedisAway
from headrace.loaded import Loaded, Read
from headrace.lockfile import StateLock
from headrace.notify import Notifier
from headrace.retry.adopting import NAMES, adopt

if TYPE_CHECKING:  # these import gRPC; see _serve
    from headrace.edges import Edges
    from headrace.link import Link
    from headrace.seal import Seal
    from headrace.wiring import Parts

log = structlog.get_logger()

_BEAT_S = 1.0


def serve(settings: Settings, read: Read) -> None:
    """Run the daemon until SIGTERM or SIGINT. Call it from the main thread."""
    logs.set_up_logs()
    guard.close_up()
    for warning in warnings(settings, os.environ):
        log.warning(observe.CONFIG_DOUBTFUL, warning=warning)
    needs.meet(settings, os.environ)
    room.raise_descriptors()
    notifier = Notifier()
    with _valkey(settings, notifier) as valkey:
        _run(_serve(Loaded(settings, read), notifier, valkey))


def work(settings: Settings) -> None:
    """Run a worker without edges until SIGTERM or SIGINT: it makes the attempts of parked and submitted calls."""
    if not settings.redis.url:
        raise ConfigError("redis.url: is empty, and a worker of its own needs the Redis that its daemons use")
    logs.set_up_logs()
    guard.close_up()
    needs.meet_as_worker(settings, os.environ)
    room.raise_descriptors()
    _run(_work(settings, Notifier()))


def _run(main: Coroutine[object, object, None]) -> None:
    try:
        import uvloop
    except ImportError:  # not on this platform
        asyncio.run(main)
    else:
        uvloop.run(main)


@contextlib.contextmanager
def _valkey(settings: Settings, notifier: Notifier) -> Iterator[EmbeddedValkey | None]:
    Path(settings.state.dir).mkdir(mode=0o700, parents=True, exist_ok=True)
    guard.mend_modes(Path(settings.state.dir))
    # All of it has one owner: the disk tier, too, which lies there with a Redis elsewhere.
    with StateLock(Path(settings.state.dir)):
        if settings.redis.url:
            yield None
            return
        # From the main thread and before gRPC is imported: the server is tied to the thread that starts it.
        with EmbeddedValkey(Path(settings.state.dir) / "valkey", loading=lambda: notifier.extend(30)) as valkey:
            yield valkey


# Serving.


async def _serve(loaded: Loaded, notifier: Notifier, valkey: EmbeddedValkey | None) -> None:
    # Imported here, since it brings gRPC along, which wants Valkey to be started first. It would write a line for each
    # connection that is no TLS, and anybody can make those.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from headrace.edges import Edges
    from headrace.wiring import Parts

    leave, settings = _on_signals(signal.SIGTERM, signal.SIGINT), loaded.now
    async with contextlib.AsyncExitStack() as stack:
        await schema.require(_redis_url(settings, valkey))
        sealed = seal(settings, os.environ)
        parts = Parts(settings, _redis_url(settings, valkey), loaded.keys, seal=sealed)
        await stack.enter_async_context(parts.running())
        if valkey is not None:
            parts.own_redis = lambda: valkey.why
            await _adopt(parts.link, sealed, valkey)
        await stack.enter_async_context(parts.working())
        await parts.settle_in()
        parts.passkey = passkey.make(Path(settings.state.dir))
        edges = Edges(parts, runtime_dir(os.environ, settings))
        await stack.enter_async_context(edges.open())
        parts.operated.addresses = tuple(edges.addresses)
        stack.push_async_callback(_start_heart(parts, edges, notifier, valkey).close)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, _reload, loaded, parts, edges, notifier)
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, _show, parts)
        _settle_in()
        log.info(observe.DAEMON_STARTED, addresses=edges.addresses, admin=edges.admin, redis=settings.redis.url != "")
        notifier.ready(f"serving {', '.join(edges.addresses)}")
        await leave.wait()
        await _drain(parts, edges, notifier)
    log.info(observe.DAEMON_STOPPED)


async def _adopt(link: Link, sealed: Seal, valkey: EmbeddedValkey) -> None:
    # What cannot be reached just now is as it would be without: tickets that have no seal are not there.
    with contextlib.suppress(RedisAway, RedisError):
        await adopt(link, sealed, await asyncio.to_thread(valkey.names, NAMES))


async def _work(settings: Settings, notifier: Notifier) -> None:
    from headrace.edges import pages_of
    from headrace.wiring import Parts

    leave = _on_signals(signal.SIGTERM, signal.SIGINT)
    async with contextlib.AsyncExitStack() as stack:
        await schema.require(redis_url(settings))
        sealed = seal(settings, os.environ)
        loaded = Loaded(settings, lambda: settings)
        parts = Parts(settings, redis_url(settings), loaded.keys, keeps_disk=False, seal=sealed)
        await stack.enter_async_context(parts.running())
        await stack.enter_async_context(parts.working())
        await parts.settle_in()
        if settings.worker.listen:
            await stack.enter_async_context(pages_of(parts).open())
        stack.push_async_callback(_start_heart(parts, None, notifier, None).close)
        _settle_in()
        notifier.ready("working")
        log.info(observe.WORKER_STARTED)
        await leave.wait()
        notifier.stopping("draining")
    log.info(observe.WORKER_STOPPED)


def _settle_in() -> None:
    # What the start made stays for good, and need not be walked through at each collection; and a call makes so many
    # short-lived objects that the usual 700 collect several times a call: a sixth of what a miss cost, measured.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def _redis_url(settings: Settings, valkey: EmbeddedValkey | None) -> str:
    return redis_url(settings) or (valkey.url if valkey else "")


def _on_signals(*signals: signal.Signals) -> asyncio.Event:
    received = asyncio.Event()
    for number in signals:
        asyncio.get_running_loop().add_signal_handler(number, received.set)
    return received


def _reload(loaded: Loaded, parts: Parts, edges: Edges, notifier: Notifier) -> None:
    # Limits, callers, keys and certificates; what is bound or built at the start stays until a restart, and is named.
    notifier.reloading()
    said = "serving"
    try:
        changes = loaded.renew()
    except ConfigError as error:
        observe.CONFIG_OK.set(0.0)
        log.error(observe.CONFIG_REJECTED, error=str(error))
        said = f"serving; the last reload was refused: {error}"
    else:
        parts.reload(loaded.now)
        log.info(observe.CONFIG_RELOADED, changed=changes.taken)
        if changes.waiting:
            log.warning(observe.CONFIG_WAITS, keys=changes.waiting)
            said = f"serving; a restart is needed for {', '.join(changes.waiting)}"
    edges.reload()
    notifier.ready(said)


def _show(parts: Parts) -> None:
    log.info(observe.STATE_SHOWN, state=repr(parts))


# The heartbeat.


def _start_heart(parts: Parts, edges: Edges | None, notifier: Notifier, valkey: EmbeddedValkey | None) -> Background:
    heart = Background("daemon", parts.clock)
    heart.lasting(lambda: _beat(parts, edges, notifier, valkey), "heartbeat")
    return heart


async def _beat(parts: Parts, edges: Edges | None, notifier: Notifier, valkey: EmbeddedValkey | None) -> None:
    """Once a second: look whether all is well, and tell who wants to know."""
    told: Condition | None = None
    while True:
        if valkey is not None:
            valkey.ensure()
        await parts.look()
        stands = parts.condition()
        if edges is not None:
            await edges.set_serving(not stands.wrong)
        if stands != told:
            notifier.status("; ".join(stands.wrong or ["serving", *stands.degraded]))
            log.info(observe.HEALTH_CHANGED, wrong=stands.wrong, degraded=stands.degraded)
            told = stands
        # From the loop itself: when it is stuck, no word goes out, and systemd starts us anew.
        notifier.watchdog()
        await parts.clock.sleep(_BEAT_S)


# Draining.


async def _drain(parts: Parts, edges: Edges, notifier: Notifier) -> None:
    delay_s, grace_s = parts.settings.drain.delay, parts.settings.drain.time
    notifier.stopping("draining")
    notifier.extend(delay_s + grace_s + 30)
    log.info(observe.DAEMON_DRAINING, delay_s=delay_s, grace_s=grace_s, flow=repr(parts.flow))
    # Health says no before the doors close: a balancer that looks every second sends nothing more by then.
    parts.is_leaving = True
    await edges.set_serving(False)
    await parts.clock.sleep(delay_s)
    parts.drain()
    await edges.drain(grace_s)
