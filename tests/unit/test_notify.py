"""sd_notify, against sockets of our own in systemd's place."""

import os
import socket
import time

import pytest

from headrace.notify import Notifier, NotifierStats


@pytest.fixture
def manager(tmp_path):
    """A service manager's end: its socket and its address, by turns in the file system and in the abstract namespace."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(5)
        yield listener, {"NOTIFY_SOCKET": str(tmp_path / "notify")}


def heard(listener):
    return listener.recv(4096).decode().split("\n")


def test_messages(manager):
    """Each method says what systemd's protocol wants."""
    listener, environ = manager
    notifier = Notifier(environ)

    notifier.ready("serving")
    assert heard(listener) == ["READY=1", "STATUS=serving"]
    notifier.status("two\nlines")
    assert heard(listener) == ["STATUS=two lines"]
    notifier.stopping()
    assert heard(listener) == ["STOPPING=1"]
    notifier.watchdog()
    assert heard(listener) == ["WATCHDOG=1"]
    notifier.extend(1.5)
    assert heard(listener) == ["EXTEND_TIMEOUT_USEC=1500000"]
    assert repr(notifier) == "<Notifier [listening, 5 sent]>"
    assert notifier.stats() == NotifierStats(is_heard=True, sent=5)


def test_reload(manager):
    """A reload carries the monotonic time in microseconds."""
    listener, environ = manager
    before = time.monotonic_ns() // 1000
    Notifier(environ).reloading()
    reloading, at = heard(listener)

    assert reloading == "RELOADING=1"
    assert before <= int(at.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000


def test_abstract_socket():
    """An address that begins with @ lies in the abstract namespace."""
    name = f"headrace-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + name)
        listener.settimeout(5)
        Notifier({"NOTIFY_SOCKET": "@" + name}).ready()
        assert heard(listener) == ["READY=1"]


@pytest.mark.parametrize(
    "environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "/nonexistent/socket"}, {"NOTIFY_SOCKET": "vsock:2:3"}]
)
def test_nobody_listens(environ):
    """Without a listener all is silence, not an error."""
    notifier = Notifier(environ)
    notifier.ready("serving")
    notifier.watchdog()
    assert notifier.sent == 0


def test_full_socket(manager):
    """A manager that does not read never blocks us."""
    _, environ = manager
    notifier = Notifier(environ)
    for _ in range(2000):
        notifier.status("x" * 200)
    assert notifier.sent < 2000


@pytest.mark.parametrize(
    ("environ", "interval_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_watchdog_interval(environ, interval_s):
    """We speak up at half the time, and only if it is us who is watched."""
    assert Notifier(environ).watchdog_interval_s == interval_s
