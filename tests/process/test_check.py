"""What keeps the daemon from starting keeps `headrace config check` from being content, in the same words."""

from __future__ import annotations

import os
import socket

import pytest

from daemon_process import environment, headrace, serving

KEY = {"HEADRACE_UPSTREAM__API_KEY": "sk-test"}


@pytest.fixture
def environ(tmp_path_factory):
    """An environment with a directory whose name is short enough for a socket."""
    return environment(tmp_path_factory.mktemp("k"), **KEY)


BROKEN = {
    "group": ({"LISTEN__SOCKET_GROUP": "nosuchgroup"}, 1, "listen.socket_group: there is no group 'nosuchgroup'"),
    "state": ({"STATE__DIR": "/dev/null/state"}, 1, "state.dir: cannot write to /dev/null/state"),
    "socket": ({"LISTEN__GRPC": '["unix:/nope/dir/h.sock"]'}, 1, "there is no directory /nope/dir"),
    "long": ({"LISTEN__GRPC": f'["unix:{"x" * 120}"]'}, 1, "longer than the 107 bytes"),
    "address": ({"LISTEN__HTTP": "192.0.2.1:1", "LISTEN__INSECURE": "true"}, 1, "listen.http: cannot listen on 192.0.2.1:1"),
    "key": ({"UPSTREAM__API_KEY": "", "UPSTREAM__API_KEY_FILE": "/nope/key"}, 2, "upstream.api_key_file: /nope/key: No such"),
    "pepper": ({"AUTH__PEPPER_FILE": "/nope/pepper"}, 2, "auth.pepper_file: /nope/pepper: cannot be read"),
    "seal": ({"STATE__MAC_KEY_FILE": "/nope/mac"}, 2, "state.mac_key_file: /nope/mac"),
    "certificate": ({"LISTEN__TLS_CERTIFICATE": "/nope/c", "LISTEN__TLS_KEY": "/nope/k"}, 1, "listen.tls_certificate"),
    "redis": ({"REDIS__URL": "redis://127.0.0.1:1?foo=1"}, 2, "redis.url: an option in it is not known"),
    "typo": ({"CACHE__TLL": "1h"}, 2, "did you mean cache.ttl?"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_agree(name, environ):
    """Both end with the same code, and the same sentence."""
    more, code, said = BROKEN[name]
    environ |= {f"HEADRACE_{key}": value for key, value in more.items()}
    checked, served = headrace("config", "check", environ=environ), headrace("serve", environ=environ)
    assert (checked.returncode, served.returncode) == (code, code)
    [line] = [line for line in checked.stderr.splitlines() if line.startswith("headrace: ")]
    assert said in line
    assert line in served.stderr.splitlines()
    assert "Traceback" not in served.stderr + checked.stderr


def test_all_at_once(environ):
    """A check names all that is not met; without this machine it says only what is in the file."""
    environ |= {"HEADRACE_LISTEN__SOCKET_GROUP": "nosuchgroup", "HEADRACE_STATE__DIR": "/dev/null/state"}
    said = headrace("config", "check", environ=environ).stderr
    assert "nosuchgroup" in said
    assert "/dev/null/state" in said
    assert headrace("config", "check", "--only-file", environ=environ).returncode == 0


def test_port_in_use(environ):
    """A port of somebody else's is refused by both; the running daemon's own is none."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        environ |= {"HEADRACE_LISTEN__HTTP": f"127.0.0.1:{other.getsockname()[1]}"}
        checked, served = headrace("config", "check", environ=environ), headrace("serve", environ=environ)
        assert (checked.returncode, served.returncode) == (1, 1)
        assert "Address already in use" in checked.stderr
    with serving(environ):
        assert headrace("config", "check", environ=environ).returncode == 0


def test_leaves_nothing(tmp_path):
    """Where there is no directory yet, a check makes none."""
    environ = environment(tmp_path, HEADRACE_STATE__DIR=str(tmp_path / "var" / "lib" / "state"), **KEY)
    done = headrace("config", "check", environ=environ)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root leaves files that others cannot read")
def test_root_first(tmp_path):
    """Before the first start root's commands refuse to make what would be root's, and say what to do."""
    environ = environment(tmp_path, HEADRACE_STATE__DIR=str(tmp_path / "state"), **KEY)
    for command in (("keys", "list"), ("cache", "purge", "--all"), ("backup", str(tmp_path / "file"))):
        done = headrace(*command, environ=environ)
        assert done.returncode == 1, command
        assert "start the daemon first" in done.stderr
    assert list(tmp_path.iterdir()) == []
