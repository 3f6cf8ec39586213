"""Connections seen through the kernel: which there are, what went over them, and their end."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

import pytest

from headrace.edge.grpc_intake import peer_of
from headrace.edge.tcp_lines import Line, Lines, deafen, undeafen


@contextlib.contextmanager
def pair(family: socket.AddressFamily = socket.AF_INET) -> Iterator[tuple[socket.socket, socket.socket, int]]:
    """The two ends of a connection, and the port where it was accepted."""
    both = family == socket.AF_INET6
    with socket.create_server(("" if both else "127.0.0.1", 0), family=family, dualstack_ipv6=both) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client, server.accept()[0] as accepted:
            yield client, accepted, port


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_counts(family: socket.AddressFamily) -> None:
    """One that came in at the port is found by its peer, whatever the family, and its bytes are counted."""
    with pair(family) as (client, accepted, port):
        lines = Lines({port})
        lines.find()
        assert len(lines) == 1
        line = lines.of(client.getsockname()[:2])
        assert line is not None
        client.sendall(b"a" * 1000)
        assert accepted.recv(1000, socket.MSG_WAITALL)
        assert line.look()
        assert line.received == 1000
        accepted.close()
        lines.find()
        assert not len(lines)


def test_cut() -> None:
    """One that is cut is over for both ends, though its descriptor is another's to close."""
    with pair() as (client, accepted, port):
        lines = Lines({port})
        lines.find()
        (line,) = lines
        line.cut()
        assert client.recv(1) == b""
        assert accepted.recv(1) == b""
        assert not line.look()


def waiting(one: socket.socket) -> bytes:
    """What has come."""
    one.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        return one.recv(100)
    return b"nothing"


@contextlib.contextmanager
def deaf(family: socket.AddressFamily) -> Iterator[tuple[socket.socket, socket.socket, Line]]:
    """The two ends of a connection that came in at a socket that was deaf."""
    both = family == socket.AF_INET6
    with socket.create_server(("" if both else "127.0.0.1", 0), family=family, dualstack_ipv6=both) as server:
        port = server.getsockname()[1]
        lines = Lines({port})
        deafen(server)
        with socket.create_connection(("127.0.0.1", port)) as client, server.accept()[0] as accepted:
            lines.find()
            (line,) = lines.take_new()
            undeafen(server)
            yield client, accepted, line


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_deaf_until_listened_to(family: socket.AddressFamily) -> None:
    """Nothing that is said before gets in, and nothing of it is lost."""
    with deaf(family) as (client, accepted, line):
        line.deafen()  # as it is already
        assert line.look()
        assert line.knocks == 0
        client.sendall(b"hello")
        assert waiting(accepted) == b"nothing"
        assert line.look()
        assert line.received == 0
        assert line.knocks > 0
        accepted.sendall(b"settings")
        assert client.recv(100) == b"settings"
        line.listen()
        accepted.settimeout(10)
        assert accepted.recv(100) == b"hello"
        line.listen()  # to one that never was deaf, as well
        client.sendall(b"more")
        assert accepted.recv(100) == b"more"


def test_the_deaf_notice_who_leaves() -> None:
    with deaf(socket.AF_INET) as (client, accepted, _):
        client.close()
        accepted.settimeout(10)
        assert accepted.recv(100) == b""


def test_another_has_the_descriptor() -> None:
    """What has the descriptor meanwhile is left alone."""
    with pair() as (_, accepted, port), pair() as (other_client, other, _):
        lines = Lines({port})
        lines.find()
        (line,) = lines
        os.dup2(other.fileno(), accepted.fileno())
        assert not line.look()
        line.cut()
        other_client.sendall(b"x")
        assert other.recv(1) == b"x"


def test_peers() -> None:
    """Peers as grpcio says them."""
    assert peer_of("ipv4:127.0.0.1:5") == ("127.0.0.1", 5)
    assert peer_of("ipv6:%5B::1%5D:5") == ("::1", 5)
    assert peer_of("ipv6:[::ffff:10.0.0.1]:5") == ("10.0.0.1", 5)
    assert peer_of("unix:") is None
    assert peer_of("unix:/run/x:5") is None
