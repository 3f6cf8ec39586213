"""A primary with two replicas and three Sentinels, real processes all, for tests of what happens when the primary changes."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import redis

from conftest import valkey_binary

NAME = "ours"
# Sentinels connect anew once a second at most. With a second and no more they take a primary to which they have just switched
# for dead, and replace it while it lives.
_DOWN_MS = 2000
_AT_ONCE = ("--repl-diskless-sync-delay", "0")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Group:
    """
    The servers and their Sentinels.

    Args:
        options: of each server, beside those that make it one of a group.
    """

    def __init__(self, root: Path, *options: str) -> None:
        self._root, self._options = root, options
        self._servers: dict[int, subprocess.Popen[bytes]] = {}
        self._watching: dict[int, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Group:
        try:
            first, *others = (_free_port() for _ in range(3))
            self.start(first)
            for port in others:
                self.start(port, "--replicaof", f"127.0.0.1 {first}")
            _wait(lambda: self.client(first).info("replication").get("connected_slaves") == len(others), "replicas")
            for _ in range(3):
                self._watch(_free_port(), first)
            _wait(self._is_watched, "Sentinels that know each other")
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"redis+sentinel://{','.join(f'127.0.0.1:{port}' for port in self._watching)}/{NAME}/0"

    def start(self, port: int, *more: str) -> None:
        """Start a server on what it had before."""
        directory = self._root / str(port)
        directory.mkdir(parents=True, exist_ok=True)
        # Its configuration is a file, since Sentinels rewrite it.
        (config := directory / "server.conf").touch()
        where = ("--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory), "--save", "")
        self._servers[port] = _run(valkey_binary(), str(config), *where, *_AT_ONCE, *self._options, *more)

    def _watch(self, port: int, primary: int) -> None:
        config = self._root / f"sentinel-{port}.conf"
        config.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {self._root}\n"
            f"sentinel monitor {NAME} 127.0.0.1 {primary} 2\n"
            f"sentinel down-after-milliseconds {NAME} {_DOWN_MS}\n"
            f"sentinel failover-timeout {NAME} 4000\n"
        )
        self._watching[port] = _run(valkey_binary(), str(config), "--sentinel")

    def _is_watched(self) -> bool:
        return all(one[b"num-slaves"] == b"2" and one[b"num-other-sentinels"] == b"2" for one in self._said())

    def _said(self) -> list[dict[bytes, bytes]]:
        facts = [client.execute_command("SENTINEL", "MASTER", NAME) for client in self._sentinels()]
        return [dict(zip(said[::2], said[1::2], strict=True)) for said in facts]

    def _sentinels(self) -> list[redis.Redis]:
        return [self.client(port, protocol=2) for port in self._watching]

    def client(self, port: int, **options: object) -> redis.Redis:
        return redis.Redis(port=port, socket_timeout=5, **options)  # type: ignore[arg-type]

    def primary(self) -> int:
        """Return the port of the primary, as most Sentinels have it."""
        said = [client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME) for client in self._sentinels()]
        ports = sorted(int(address[1]) for address in said)
        return ports[len(ports) // 2]

    def failovers(self) -> int:
        """Return how often the Sentinels have made another the primary."""
        return max(int(one[b"config-epoch"]) for one in self._said())

    def takes_primary_for_dead(self) -> bool:
        """Return whether any Sentinel does just now."""
        return any(b"s_down" in one[b"flags"] for one in self._said())

    def fail_over(self) -> None:
        """
        Let the Sentinels make another the primary, and wait until they have.

        Coordinated with the primary of old, which takes no writes meanwhile. Without that word it takes them for a second more,
        the other replica confirms them, and all of those are lost.
        """
        before = self.primary()
        for client in self._sentinels():
            with contextlib.suppress(redis.ResponseError):
                client.execute_command("SENTINEL", "FAILOVER", NAME, "COORDINATED")
                break
        _wait(lambda: self.primary() != before, "another primary")

    def kill_primary(self) -> None:
        """Kill the primary, wait until another is one, and start it again: as a replica, since they tell it so."""
        before = self.primary()
        self._servers[before].kill()
        self._servers[before].wait()
        _wait(lambda: self.primary() != before, "another primary")
        self.start(before)

    def still_primary(self) -> None:
        """Hold the primary still until another is one, and wake it: it takes itself for the primary until it is told better."""
        before = self.primary()
        process = self._servers[before]
        process.send_signal(signal.SIGSTOP)
        try:
            _wait(lambda: self.primary() != before, "another primary")
        finally:
            process.send_signal(signal.SIGCONT)

    @contextlib.contextmanager
    def without_a_replica(self) -> Iterator[None]:
        """Hold one of the replicas still for as long as the block lasts."""
        primary = self.primary()
        process = next(process for port, process in self._servers.items() if port != primary)
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        for process in (*self._watching.values(), *self._servers.values()):
            process.kill()
            process.wait()


def _run(*command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _wait(condition: Callable[[], object], what: str, within: float = 40.0) -> None:
    give_up = time.monotonic() + within
    while True:
        with contextlib.suppress(redis.RedisError, OSError):
            if condition():
                return
        assert time.monotonic() < give_up, f"no {what} within {within} s"
        time.sleep(0.05)
