"""Bad input and faults, through the installed program: a clear error or a retry, and nothing lost or hung."""

from __future__ import annotations

import asyncio
import io
import json
import signal
import socket
import subprocess
import time
from pathlib import Path

import aiohttp
import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from conftest import start_valkey, until
from daemon_process import HEADRACE, environment, headrace, serving
from fleet import daemon, simulated
from headrace.simulator import Options
from headrace.v1 import (
    messages_service_pb2,
    messages_service_pb2_grpc,
    options_pb2,
    tickets_pb2,
    tickets_service_pb2,
    tickets_service_pb2_grpc,
)

GOOD = {"model": "claude-x", "max_tokens": 16, "messages": [{"role": "user", "content": "hello"}]}


def ask(text, **more):
    return GOOD | {"messages": [{"role": "user", "content": text}]} | more


@pytest.fixture
async def simulator():
    async with simulated() as running:
        yield running


@pytest.fixture
def running(simulator):
    with daemon(simulator.url) as running:
        yield running
    assert running.served.process.returncode == 0
    assert "Traceback" not in running.served.log


@pytest.fixture
async def http():
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session


async def post(http, url, body, **headers):
    sent = {"anthropic-version": "2023-06-01"} | {name.replace("_", "-"): value for name, value in headers.items()}
    data = io.BytesIO(body if isinstance(body, bytes) else json.dumps(body).encode())
    async with http.post(f"{url}/v1/messages", data=data, headers=sent, timeout=aiohttp.ClientTimeout(60)) as response:
        return response.status, await response.read(), response.headers


def type_of(body):
    return json.loads(body)["error"]["type"]


# Bad input.


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"{", 400, "not valid JSON"),
        (b'{"model":"\xff"}', 400, "UTF-8"),
        (b"[" * 100_000 + b"]" * 100_000, 400, "nested too deeply"),
        (b"[]", 400, "must be a JSON object"),
        (GOOD | {"model": 3}, 400, "model"),
        (GOOD | {"max_tokens": "many"}, 400, "max_tokens"),
        ({"model": "m", "max_tokens": 1}, 400, "messages"),
        (GOOD | {"stream": "yes"}, 400, "stream"),
        (b" " * 32_000_001, 413, "32,000,000"),
        (b" " * 40_000_000, 413, "32,000,000"),
    ],
)
async def test_bad_bodies(running, simulator, http, body, status, says):
    """A body that is wrong is a clear 400 or 413, in the API's own shape, and never reaches upstream."""
    seen, said, headers = await post(http, running.http, body)
    assert (seen, headers["x-should-retry"]) == (status, "false")
    assert says in json.loads(said)["error"]["message"]
    assert json.loads(said)["request_id"] == headers["request-id"]
    assert simulator.counts.total == 0


async def test_bad_headers(running, http):
    """A header that makes no sense is a 400 that names it."""
    for name, value in (("x_headrace_timeout_ms", "soon"), ("x_headrace_lane", "fast"), ("x_headrace_caller", "no spaces")):
        status, said, _ = await post(http, running.http, GOOD, **{name: value})
        assert status == 400, name
        assert type_of(said) == "invalid_request_error"


async def test_malformed_protobuf(running):
    """Bytes that are no request are INVALID_ARGUMENT, and the text says so."""
    async with grpc.aio.insecure_channel(running.grpc) as channel:
        create = channel.unary_unary("/headrace.v1.MessagesService/CreateMessage")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await create(b"\xff\xff\xff", timeout=10)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "do not parse" in caught.value.details()


async def test_unknown_callers(simulator, http):
    """Where keys are required, none and a wrong one are 401; a new key works at once, and a revoked one no more."""
    with daemon(simulator.url, AUTH__REQUIRED="true") as running:
        environ = {**environment(Path("/nowhere")), "HEADRACE_STATE__DIR": state_dir(running)}
        assert (await post(http, running.http, GOOD))[0] == 401
        assert (await post(http, running.http, GOOD, x_api_key="hr_wrong"))[0] == 401
        made = await asyncio.to_thread(headrace, "keys", "create", "shop", environ=environ)
        assert made.returncode == 0, made.stderr
        key = made.stdout.strip()

        async def allowed():
            return (await post(http, running.http, GOOD, authorization=f"Bearer {key}"))[0] == 200

        await until(allowed)
        await asyncio.to_thread(headrace, "keys", "revoke", "shop", environ=environ)

        async def refused():
            return not await allowed()

        await until(refused)


def state_dir(running):
    status = Path(f"/proc/{running.served.process.pid}/environ").read_bytes().split(b"\0")
    return next(line.decode().partition("=")[2] for line in status if line.startswith(b"HEADRACE_STATE__DIR="))


# Upstream in trouble.


@pytest.mark.parametrize(
    "kind", ["half_json", "reset", "garbage", "api_error", "unavailable", "bad_gateway", "request_timeout"]
)
@pytest.mark.parametrize("stream", [False, True])
async def test_retried(running, simulator, http, kind, stream):
    """An answer that is broken, or an error that passes, is tried again, and the caller sees only the good one."""
    simulator.faults.add(kind, count=1)
    status, said, headers = await post(http, running.http, ask(kind, stream=stream))
    assert status == 200, said
    if simulator.counts.total > 1:  # some faults do not apply to streams
        assert headers["x-headrace-attempts"] == "2"
    assert (b"message_stop" in said) == stream


async def test_overload_before_content(running, simulator, http):
    """An overload inside a stream, before its first content, is retried unseen."""
    simulator.faults.add("stream_error", count=1, after_deltas=0)
    status, said, headers = await post(http, running.http, ask("early", stream=True))
    assert (status, headers["x-headrace-attempts"]) == (200, "2")
    assert said.count(b"event: message_start") == 1
    assert b"event: error" not in said


async def test_overload_after_content(running, simulator, http):
    """After the first content the stream ends in an error event; a unary caller of the same is answered all the same."""
    simulator.faults.add("stream_error", count=1, after_deltas=1)
    status, said, _ = await post(http, running.http, ask("late", stream=True))
    assert status == 200
    assert said.rstrip().rsplit(b"event: ", 1)[1].startswith(b"error")
    assert (await post(http, running.http, ask("late")))[0] == 200


async def test_hang(running, simulator, http):
    """An upstream that hangs is 504 timeout_error at the caller's deadline, and nothing is left behind."""
    simulator.faults.add("hang", count=9)
    began = time.monotonic()
    status, said, _ = await post(http, running.http, GOOD, x_headrace_timeout_ms="700")
    assert (status, type_of(said)) == (504, "timeout_error")
    assert time.monotonic() - began < 5
    await until(lambda: simulator.counts.running == 0)


async def test_caller_goes_away(running, simulator, http):
    """A caller that hangs up cancels its call upstream."""
    simulator.faults.add("hang", count=1)
    asking = asyncio.create_task(post(http, running.http, ask("bye")))
    await until(lambda: simulator.counts.running == 1)
    asking.cancel()
    await until(lambda: simulator.counts.running == 0)


# Redis in trouble.


async def test_redis_absent_at_start(simulator, http):
    """Without Redis the daemon runs, says so in /readyz and health, and serves calls that need none."""
    with daemon(simulator.url, "unix:///nowhere/at-all.sock") as running:
        async with http.get(f"{running.http}/readyz") as ready:
            assert (ready.status, "Redis" in await ready.text()) == (503, True)
        assert (await post(http, running.http, GOOD))[0] == 200
        async with grpc.aio.insecure_channel(running.grpc) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            reply = await health.Check(health_pb2.HealthCheckRequest(), timeout=5)
        assert reply.status == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_closed_limit_without_redis(simulator, http):
    """A limit that is closed without Redis waits five seconds for it, and refuses then."""
    limit = '[{name = "org", requests_per_minute = 600}]'
    with daemon(simulator.url, "unix:///nowhere/at-all.sock", LIMIT=limit) as running:
        began = time.monotonic()
        status, said, headers = await post(http, running.http, GOOD)
        assert (status, type_of(said)) == (503, "api_error")
        assert 4 < time.monotonic() - began < 12
        assert "retry-after" in headers
        assert simulator.counts.total == 0


async def test_redis_goes_and_comes_back(simulator, http, tmp_path):
    """Redis away in mid-load: every call is answered or clearly refused, none hangs, and then all is well again."""
    valkey, url = start_valkey(tmp_path, "--appendonly", "yes")
    with daemon(simulator.url, url, LIMIT='[{name = "org", requests_per_minute = 60000}]') as running:
        over, statuses = asyncio.Event(), []

        async def load(n):
            number = 0
            while not over.is_set():
                number += 1
                statuses.append((await post(http, running.http, ask(f"{n} {number}"), x_headrace_timeout_ms="20000"))[0])

        loads = [asyncio.create_task(load(n)) for n in range(8)]
        await until(lambda: len(statuses) > 50)
        valkey.kill()
        valkey.wait()
        await asyncio.sleep(3)
        valkey, _ = start_valkey(tmp_path, "--appendonly", "yes")
        seen = len(statuses)
        await until(lambda: len(statuses) > seen + 100, within=20)
        over.set()
        await asyncio.wait_for(asyncio.gather(*loads), 30)

        assert set(statuses) <= {200, 503}
        assert (await post(http, running.http, ask("after")))[0] == 200

        async def ready():
            async with http.get(f"{running.http}/readyz") as response:
                return response.status == 200

        await until(ready, within=20)
    valkey.terminate()
    valkey.wait(10)


# The machine in trouble.


def test_occupied_port(tmp_path):
    """A port that is taken is named, with what is wrong, before anything is served."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for setting in ({"HEADRACE_LISTEN__HTTP": address}, {"HEADRACE_LISTEN__GRPC": f'["{address}"]'}):
            done = headrace("serve", environ=environment(tmp_path, **{"HEADRACE_LISTEN__GRPC": "[]"} | setting))
            assert done.returncode == 1
            assert address in done.stderr
            assert "Traceback" not in done.stderr


def test_second_daemon(tmp_path):
    """A second daemon on the same state directory, or on the same socket, says who is there."""
    with serving(environment(tmp_path)):
        done = headrace("serve", environ=environment(tmp_path))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_state_directory_not_writable(tmp_path):
    """A state directory that cannot be written is named."""
    (tmp_path / "file").write_text("in the way")
    done = headrace("serve", environ=environment(tmp_path / "file" / "state"))
    assert done.returncode == 1
    assert "state.dir" in done.stderr
    assert "Traceback" not in done.stderr


async def test_broken_disk_cache(simulator, http, tmp_path):
    """A disk cache that is garbage is put aside; calls are answered."""
    environ = environment(
        tmp_path, HEADRACE_UPSTREAM__BASE_URL=simulator.url, HEADRACE_UPSTREAM__API_KEY="k", HEADRACE_LISTEN__GRPC="[]"
    )
    for round_ in range(2):
        with serving(environ) as served:
            url = json.loads(next(line for line in served.log.splitlines() if "daemon.started" in line))["addresses"][-1]
            assert (await post(http, url, ask(f"round {round_}")))[0] == 200
        for path in (tmp_path / "cache").glob("cache.db*"):
            path.write_bytes(b"garbage" * 1000)


# Coming and going.


async def test_drain(simulator, http):
    """SIGTERM: health says so, new calls are refused, those that run end well, and the exit code is 0."""
    slow = Options.instant(first_token_s=1.5)
    async with simulated(slow) as slow_upstream:
        with daemon(slow_upstream.url) as running:
            under_way = asyncio.create_task(post(http, running.http, ask("under way")))
            await until(lambda: slow_upstream.counts.running == 1)
            running.served.process.send_signal(signal.SIGTERM)
            async with grpc.aio.insecure_channel(running.grpc) as channel:
                stub = messages_service_pb2_grpc.MessagesServiceStub(channel)

                async def refused():
                    try:
                        await stub.CreateMessage(messages_service_pb2.CreateMessageRequest(params=params("new")), timeout=5)
                    except grpc.aio.AioRpcError as error:
                        return error.code() is grpc.StatusCode.UNAVAILABLE
                    return False

                await until(refused)
            assert (await under_way)[0] == 200
        assert running.served.process.returncode == 0


async def test_reload(simulator, http, tmp_path):
    """SIGHUP brings new limits; a file that is wrong is rejected, and the old one stays."""
    config = tmp_path / "config.toml"
    start = f'[upstream]\nbase_url = "{simulator.url}"\napi_key = "k"\n[listen]\ngrpc = []\n'
    config.write_text(start)
    with serving(environment(tmp_path), (HEADRACE, "serve", "--config", str(config))) as served:
        url = json.loads(next(line for line in served.log.splitlines() if "daemon.started" in line))["addresses"][-1]
        config.write_text(start + "[[limit]]\nname = 'org'\nrequests_per_minute = 60\nburst = '1s'\n")
        served.process.send_signal(signal.SIGHUP)
        served.wait(lambda: "config.reloaded" in served.log)
        assert (await post(http, url, ask("1")))[0] == 200
        assert (await post(http, url, ask("2"), x_headrace_timeout_ms="100"))[0] == 429
        config.write_text(start + "[limits]\n")
        served.process.send_signal(signal.SIGHUP)
        served.wait(lambda: "config.rejected" in served.log)
        assert (await post(http, url, ask("3"), x_headrace_timeout_ms="100"))[0] == 429


def params(text):
    request = messages_service_pb2.CreateMessageRequest()
    request.params.model, request.params.max_tokens = "claude-x", 16
    request.params.messages.add(role="user").content.text = text
    return request.params


async def test_submitted_call_survives_the_daemon(valkey_url):
    """A call that was handed in is answered, once, although the daemon that took it is killed."""
    options = options_pb2.CallOptions(anthropic_version="2023-06-01")
    async with simulated(Options.instant()) as upstream:
        upstream.faults.add("overloaded", count=3)
        with daemon(upstream.url, valkey_url, RETRY__BACKOFF="2s..4s") as one:
            async with grpc.aio.insecure_channel(one.grpc) as channel:
                stub = messages_service_pb2_grpc.MessagesServiceStub(channel)
                request = messages_service_pb2.SubmitMessageRequest(params=params("later"), options=options)
                ticket = (await stub.SubmitMessage(request, timeout=10)).ticket
                await until(lambda: upstream.counts.total >= 1)
            one.served.process.send_signal(signal.SIGKILL)
            one.served.process.wait()
        with daemon(upstream.url, valkey_url) as two:
            async with grpc.aio.insecure_channel(two.grpc) as channel:
                stub = tickets_service_pb2_grpc.TicketsServiceStub(channel)
                wait = tickets_service_pb2.WaitTicketRequest(id=ticket.id)
                ended = (await stub.WaitTicket(wait, timeout=60)).ticket
    assert tickets_pb2.TicketState.Name(ended.state).endswith("SUCCEEDED")
    assert upstream.counts.outcomes["answered"] == 1


async def test_worker_makes_attempts(valkey_url, tmp_path):
    """A worker of its own makes the attempts of a daemon's parked calls, and streams them back live."""
    async with simulated(Options.instant()) as upstream:
        environ = environment(
            tmp_path,
            HEADRACE_UPSTREAM__BASE_URL=upstream.url,
            HEADRACE_UPSTREAM__API_KEY="k",
            HEADRACE_REDIS__URL=valkey_url,
        )
        upstream.faults.add("rate_limit", count=2, retry_after_s=0.2)
        with daemon(upstream.url, valkey_url) as running, serving(environ, (HEADRACE, "worker")):
            async with aiohttp.ClientSession() as http:
                asked = [post(http, running.http, ask(f"n {n}", stream=n % 2 == 0)) for n in range(10)]
                assert {status for status, _, _ in await asyncio.gather(*asked)} == {200}
    assert upstream.counts.outcomes["answered"] == 10


def test_worker_needs_redis(tmp_path):
    """A worker without redis.url says what is missing."""
    done = subprocess.run([HEADRACE, "worker"], env=environment(tmp_path), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "redis.url" in done.stderr
