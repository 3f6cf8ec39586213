"""A worker of its own says whether it is well, and how much it did, at a port of its own."""

from __future__ import annotations

import contextlib
import json
import socket
import time
import urllib.error
import urllib.request

import pytest

from conftest import start_valkey
from daemon_process import HEADRACE, environment, headrace, serving


@pytest.fixture
def redis(tmp_path_factory):
    process, url = start_valkey(tmp_path_factory.mktemp("v"))
    yield process, url
    process.kill()
    process.wait()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


def page(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_pages(redis, tmp_path_factory):
    """Health, readiness and metrics, and nothing else; without Redis it is not ready."""
    process, url = redis
    port = free_port()
    environ = environment(
        tmp_path_factory.mktemp("w"),
        HEADRACE_REDIS__URL=url,
        HEADRACE_WORKER__LISTEN=f"127.0.0.1:{port}",
        HEADRACE_UPSTREAM__API_KEY="k",
    )
    with serving(environ, [HEADRACE, "worker"]) as worker:
        assert page(port, "/healthz") == (200, "ok\n")
        assert page(port, "/readyz") == (200, "ready\n")
        assert "headrace_worker_up 1.0" in page(port, "/metrics")[1]
        assert page(port, "/v1/messages")[0] == 404
        process.kill()
        worker.wait(lambda: page(port, "/readyz")[0] == 503, within=20)
        assert "Redis" in page(port, "/readyz")[1]
        worker.process.terminate()
        assert worker.process.wait(60) == 0
    with contextlib.suppress(urllib.error.URLError):
        raise AssertionError(page(port, "/healthz"))


def test_in_use(redis, tmp_path_factory):
    """An address that is taken is one sentence."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        environ = environment(tmp_path_factory.mktemp("w"), HEADRACE_REDIS__URL=redis[1], HEADRACE_WORKER__LISTEN=address)
        done = headrace("worker", environ=environ)
    assert done.returncode == 1
    assert f"headrace: worker.listen: cannot listen on {address}: Address already in use" in done.stderr


def test_clean_start(tmp_path_factory):
    """Second by second, a clean start and some quiet seconds log nothing above info, and no change of health for the worse."""
    with serving(environment(tmp_path_factory.mktemp("c"), HEADRACE_UPSTREAM__API_KEY="k", CI="")) as served:
        until = time.monotonic() + 4
        while time.monotonic() < until:
            assert served.process.poll() is None
            time.sleep(0.1)
        lines = [json.loads(line) for line in served.log.splitlines()]
        assert {line["level"] for line in lines} == {"info"}, served.log
        assert all(not line["wrong"] and not line["degraded"] for line in lines if line["event"] == "health.changed")
        assert [line["event"] for line in lines].count("worker.started") <= 1
        assert served.stop() == 0
    assert {json.loads(line)["level"] for line in served.log.splitlines()} == {"info"}
