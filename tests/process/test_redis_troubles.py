"""The installed program beside a Redis in trouble, and beside others that use the same places."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time

import aiohttp
import grpc
import pytest
import redis

from audit import AUDIT
from conftest import start_valkey, until
from daemon_process import HEADRACE, environment, headrace, serving
from fleet import daemon, simulated
from headrace.v1 import messages_service_pb2, messages_service_pb2_grpc

HEADERS = {"anthropic-version": "2023-06-01"}
ALL = "~headrace:* ~rq:* &headrace:* +@all -@admin -@dangerous +info"
LIMITED = '[{ name = "org", requests_per_minute = 1000 }]'


@pytest.fixture
async def simulator():
    async with simulated() as running:
        yield running


@pytest.fixture
async def http():
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(60)) as session:
        yield session


async def ask(http, url, text):
    body = {"model": "claude-haiku-4-5", "max_tokens": 9, "messages": [{"role": "user", "content": text}]}
    async with http.post(f"{url}/v1/messages", json=body, headers=HEADERS) as response:
        return response.status, await response.json(), response.headers


async def ready(http, url):
    async with http.get(f"{url}/readyz") as response:
        return response.status, await response.text()


def events(served, name):
    lines = [json.loads(line) for line in served.log.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == name]


async def test_fail_over(simulator, http, tmp_path):
    """A primary is demoted and keeps its connections: no call fails, those that are parked included, and all is well soon."""
    servers, door = [], tmp_path / "door.sock"
    for name in ("1", "2"):
        (tmp_path / name).mkdir()
        servers.append(start_valkey(tmp_path / name))
    door.symlink_to(tmp_path / "1" / "valkey.sock")
    try:
        with daemon(simulator.url, f"unix://{door}", LIMIT=LIMITED) as running:
            for round_ in range(2):
                for number in range(3):
                    simulator.faults.add("rate_limit", count=1, retry_after_s=0.2)
                    status, said, _ = await ask(http, running.http, f"{round_}.{number}")
                    assert status == 200, said
                if round_ == 0:
                    with redis.Redis.from_url(servers[0][1]) as client:
                        client.execute_command("REPLICAOF", "127.0.0.1", "1")
                    door.unlink()
                    door.symlink_to(tmp_path / "2" / "valkey.sock")

            async def is_well():
                return (await ready(http, running.http))[0] == 200

            await until(is_well, within=40)
        assert "Traceback" not in running.served.log
    finally:
        for process, _ in servers:
            process.kill()
            process.wait()


@pytest.fixture
def own(tmp_path_factory):
    process, url = start_valkey(tmp_path_factory.mktemp("v"))
    with redis.Redis.from_url(url) as client:
        client.execute_command("ACL", "SETUSER", "app", "reset", "on", ">secret", f"~{AUDIT}", *ALL.split())
        yield url.replace("unix://", "unix://app:secret@"), client
    process.kill()
    process.wait()


async def test_forbidden(own, simulator, http):
    """What an ACL lacks is in the log and in readiness; calls that need it are refused by its code, at both doors."""
    url, client = own
    client.execute_command("ACL", "SETUSER", "app", "-evalsha", "-eval")
    with daemon(simulator.url, url, LIMIT=LIMITED) as running:
        status, said, headers = await ask(http, running.http, "secret prompt")
        assert (status, said["error"]["type"], headers["x-should-retry"]) == (503, "api_error", "false")
        assert "NOPERM" in said["error"]["message"]
        async with grpc.aio.insecure_channel(running.grpc) as channel:
            request = messages_service_pb2.SubmitMessageRequest()
            request.params.model, request.params.max_tokens = "claude-haiku-4-5", 9
            request.params.messages.add(role="user").content.text = "secret prompt"
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await messages_service_pb2_grpc.MessagesServiceStub(channel).SubmitMessage(request, timeout=20)
        assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
        assert "NOPERM" in refused.value.details()
        status, text = await ready(http, running.http)
        assert status == 503
        assert "its user may not run EVAL, EVALSHA" in text
        assert [line["lacks"] for line in events(running.served, "redis.lacks")] == [["its user may not run EVAL, EVALSHA"]]

        client.execute_command("ACL", "SETUSER", "app", "+evalsha", "+eval")
        status, said, _ = await ask(http, running.http, "secret prompt")
        assert status == 200, said

        async def is_well():
            return (await ready(http, running.http))[0] == 200

        await until(is_well, within=40)
    assert "Traceback" not in running.served.log
    assert "secret" not in running.served.log


async def test_cluster(simulator, http, tmp_path):
    """A Redis Cluster is named as what is not supported, in the log and in readiness."""
    process, url = start_valkey(tmp_path, "--cluster-enabled", "yes")
    try:
        with daemon(simulator.url, url) as running:

            async def is_told():
                return "Redis Cluster" in (await ready(http, running.http))[1]

            await until(is_told)
            assert "Redis Cluster" in events(running.served, "redis.lacks")[0]["lacks"][0]
        assert "Traceback" not in running.served.log
    finally:
        process.kill()
        process.wait()


def start(environ):
    return subprocess.Popen([HEADRACE, "serve"], env=environ, stderr=subprocess.PIPE)


@pytest.mark.parametrize("with_redis", [True, False], ids=["redis", "embedded"])
async def test_ready_at_once(simulator, valkey_url, http, tmp_path, with_redis):
    """From the first answer on, readiness says 200: a start is no trouble."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    more = {"HEADRACE_REDIS__URL": valkey_url} if with_redis else {}
    environ = environment(tmp_path, **more, HEADRACE_LISTEN__GRPC="[]", HEADRACE_UPSTREAM__API_KEY="k")
    environ["HEADRACE_LISTEN__HTTP"] = f"127.0.0.1:{port}"
    process = start(environ)
    try:
        said, give_up = [], time.monotonic() + 20
        while len(said) < 100 and time.monotonic() < give_up:
            try:
                said.append(await ready(http, f"http://127.0.0.1:{port}"))
            except aiohttp.ClientError:
                continue
        assert set(said) == {(200, "ready\n")}
    finally:
        process.terminate()
        process.communicate()


def test_one_owner(valkey_url, tmp_path):
    """With a Redis elsewhere, too, a second daemon on a state directory says who has it; a worker beside the first has none."""
    environ = environment(tmp_path, HEADRACE_REDIS__URL=valkey_url, HEADRACE_LISTEN__GRPC="[]", HEADRACE_UPSTREAM__API_KEY="k")
    with serving(environ) as served:
        done = headrace("serve", environ=environ)
        assert done.returncode == 1
        assert f"{tmp_path} is in use by process {served.process.pid}" in done.stderr
        assert "Traceback" not in done.stderr
        before = sorted(os.listdir(tmp_path))
        with serving(environ, [HEADRACE, "worker"]) as first, serving(environ, [HEADRACE, "worker"]) as second:
            assert first.process.poll() is second.process.poll() is None
            assert sorted(os.listdir(tmp_path)) == before
    with serving(environ):
        pass


@pytest.mark.parametrize(
    "seen", [b"", b"garbage", b"\xff\xfe", b"-", b"99999999999999999999999-0", b"9999999999999-0", b"0-0\n"]
)
async def test_garbled_note(simulator, valkey_url, http, tmp_path, seen):
    """A note of the last purge that cannot be read, or be true, keeps no daemon from starting, or from hearing of purges."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "purges-seen").write_bytes(seen)
    with redis.Redis.from_url(valkey_url) as client:
        client.xadd("headrace:cache:purges", {"purge": b'{"selector":{"of":"the future"},"at":"soon"}'})
        client.xadd("headrace:cache:purges", {"other": b"\xff"})
        environ = environment(
            tmp_path,
            HEADRACE_REDIS__URL=valkey_url,
            HEADRACE_LISTEN__GRPC="[]",
            HEADRACE_UPSTREAM__API_KEY="k",
            HEADRACE_UPSTREAM__BASE_URL=simulator.url,
            HEADRACE_CACHE__REDIS="0",
            HEADRACE_RETRY__MAX_RUNNING="7",
        )
        with serving(environ) as served:
            url = events(served, "daemon.started")[0]["addresses"][-1]
            assert events(served, "worker.started")[0]["concurrency"] == 7
            for source in ("upstream", "cache"):
                status, _, headers = await ask(http, url, "hello")
                assert (status, headers["x-headrace-source"]) == (200, source)
            client.xadd("headrace:cache:purges", {"purge": b"\xff, of a newer version"})
            client.publish("headrace:all", "purge ")
            await until(lambda: len(events(served, "cache.purged")) == 2)
            assert (await ask(http, url, "hello"))[2]["x-headrace-source"] == "upstream", (
                "what it means is unknown: it meant all"
            )
        assert "Traceback" not in served.log
