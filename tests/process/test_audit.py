"""
The audit: nothing that a caller or upstream said comes out of the installed program anywhere but where it belongs.

Markers stand in prompts, answers, upstream's errors, keys and headers. Calls go every way there is, at both doors, and end in
every way there is, and what is no call, too; all that libraries have to say for debugging is switched on. Then everything that
came out of the program is searched: its log with the state of all parts in it and its last words, its metrics, its processes'
titles and arguments, what its commands print, its files and Redis, with a key to encrypt them; and for keys and passwords all
that it answers.

Redis is asked as a user who may do what docs/installation.md says, and nothing else: it logs whatever it forbids.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import aiohttp
import grpc
import pytest
import redis

import daemon_process
from audit import AUDIT
from conftest import until
from daemon_process import HEADRACE
from fleet import Daemon, daemon
from headrace.v1 import content_pb2, messages_pb2, messages_service_pb2, options_pb2, tickets_service_pb2
from headrace.v1.messages_service_pb2_grpc import MessagesServiceStub
from headrace.v1.tickets_service_pb2_grpc import TicketsServiceStub
from scripted import EVENTS, MESSAGE, Line, serving

PROMPT, SAID, ECHO, HEADER = "PROMPTMARK", "ANSWERMARK", "ERRORMARK", "HEADERMARK"
OWN_KEY, OTHER_KEY, WORD = "sk-ant-OWNKEYMARK", "sk-ant-OTHERKEYMARK", "NONSENSEMARK"
ADMIN_KEY, PASSWORD = "sk-ant-ADMINKEYMARK", "PASSWORDMARK"
CIPHER_KEY, PEPPER = "CIPHERKEYMARK" * 2, "PEPPERMARK" * 2
SECRETS = (OWN_KEY, ADMIN_KEY, PASSWORD, CIPHER_KEY, PEPPER)
MARKS = (PROMPT, SAID, ECHO, HEADER, OTHER_KEY, WORD, *SECRETS)
INSTALLATION = Path(__file__).parents[2] / "docs" / "installation.md"
# What its libraries would tell of all that they see.
DEBUG = dict.fromkeys(("PYTHONASYNCIODEBUG", "PYTHONDEVMODE"), "1") | {
    "PYTHONWARNINGS": "always",
    "GRPC_TRACE": "all",
    "GRPC_VERBOSITY": "debug",
}
KINDS = ("plain", "fail", "limit", "over", "broken", "nonsense", "notmessage", "longhead", "halfway", "erring", "hang")


def error(kind: str) -> bytes:
    return json.dumps({"type": "error", "error": {"type": kind, "message": f"{ECHO}: {PROMPT} is not allowed"}}).encode()


async def talk(line: Line) -> None:
    """Answer as the prompt wants it."""
    kind = next((kind for kind in KINDS if f"{PROMPT} {kind}".encode() in line.body), "plain")
    told = f"anthropic-note: {HEADER}"
    match kind:
        case "fail":
            await line.answer(400, error("invalid_request_error"), told)
        case "limit" if _first(line.body):
            await line.answer(429, error("rate_limit_error"), "retry-after-ms: 50", told)
        case "over":
            await line.answer(529, error("overloaded_error"), told)
        case "broken":
            line.reset()
        case "nonsense":
            await line.say(WORD.encode() + b"\r\n\r\n")
            line.writer.close()
        case "notmessage":
            await line.answer(200, f'{{"{ECHO}": "{PROMPT}'.encode(), told)
        case "longhead":
            await line.answer(200, MESSAGE, "x-long: " + HEADER * 10_000)
        case "hang":
            await line.reader.read()
        case "halfway" | "erring" if b'"stream"' in line.body:
            await line.begin_stream()
            await line.chunk(b"".join(EVENTS[:4]).replace(b"Hi", SAID.encode()))
            if kind == "erring":
                await line.chunk(b"event: error\ndata: " + error("api_error") + b"\n\n")
            line.writer.close()
        case _ if b'"stream"' in line.body:
            await line.begin_stream()
            await line.chunk(b"".join(EVENTS).replace(b"Hi", SAID.encode()))
            await line.say(b"0\r\n\r\n")
        case _:
            await line.answer(200, MESSAGE.replace(b'"Hi"', f'"{SAID}"'.encode()), told)


_asked: set[bytes] = set()


def _first(body: bytes) -> bool:
    is_first = body not in _asked
    _asked.add(body)
    return is_first


def body(kind: str, **more: object) -> dict[str, object]:
    return {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": f"{PROMPT} {kind}"}], **more}


async def over_http(one: Daemon, key: str) -> None:
    headers = {
        "x-api-key": OTHER_KEY, "authorization": f"Bearer {key}", "x-note": HEADER, "cookie": HEADER,
        "anthropic-note": HEADER, "x-headrace-timeout-ms": "3000",
    }  # fmt: skip
    async with aiohttp.ClientSession(headers=headers) as session:

        async def ask(method: str, path: str, **options: object) -> None:
            with contextlib.suppress(aiohttp.ClientError):
                async with session.request(method, one.http + path, **options) as response:  # type: ignore[arg-type]
                    said = await response.read()
                    _search_secrets(f"an answer to {path}", f"{response.headers}{said!r}")

        asks = [
            ask("POST", path, json=body(kind, stream=stream))
            for kind in KINDS for stream in (False, True) for path in ("/v1/messages", "/v1/chat/completions", "/v1/things")
        ]  # fmt: skip
        asks += [ask("POST", "/v1/messages", json=body("plain"), headers={"idempotency-key": HEADER}) for _ in range(2)]
        asks += [ask("POST", "/v1/messages", json=body("plain"), headers={"x-headrace-lane": HEADER})]
        asks += [ask("GET", f"/{PROMPT}"), ask("GET", f"/v1//{PROMPT}"), ask("POST", "/v1/messages", data=PROMPT)]
        asks += [ask("POST", "/v1/messages", data=json.dumps(body("plain"))[:-1] + f',"{PROMPT}":NaN}}')]
        asks += [ask("POST", "/v1/messages", json=body("plain"), headers={"authorization": f"Bearer {OTHER_KEY}"})]
        asks += [
            ask("GET", "/v1/organizations/x", headers={"authorization": f"Bearer {key}"}),
            ask("GET", "/healthz"),
            ask("GET", "/readyz"),
        ]
        await asyncio.gather(*asks)
        leaving = asyncio.create_task(ask("POST", "/v1/messages", json=body("hang", stream=True, top_k=3)))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.wait([leaving])
        async with session.get(f"{one.http}/metrics", headers={}) as response:
            _search("/metrics", await response.text(), key)


NO_REQUESTS = (
    b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\nx-api-key: " + OTHER_KEY.encode() + b"\r\r\n\r\n",
    b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n5\r\n"
    + PROMPT.encode()
    + b"\r\n0\r\n\r\n",
    b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + WORD.encode() * 20,
    WORD.encode() + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: " + HEADER.encode() * 9_000 + b"\r\n\r\n",
    b"POST /v1/messages HTTP/1.1\r\nhost: a\r\nauthorization: Bearer " + OTHER_KEY.encode() + b"\0\r\n\r\n",
    b"POST /v1/messages HTTP/1.1\r\nhost: a\r\ncontent-length: 9, " + WORD.encode() + b"\r\n\r\n" + PROMPT.encode(),
    b"POST /v1/messages HTTP/9." + WORD.encode() + b"\r\nhost: a\r\n\r\n",
    b"POST /v1/messages HTTP/1.1\r\nhost: a\r\ncontent-encoding: gzip\r\ncontent-length: 10\r\n\r\n" + PROMPT.encode(),
    WORD.encode() + b" /" + PROMPT.encode() + b" HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET http://" + WORD.encode() + b":x@[/ HTTP/1.1\r\nhost: " + HEADER.encode() + b"\r\n\r\n",
    b"POST /v1/messages HTTP/1.1\r\nhost: a\r\n"
    + b"".join(b"x-%d: %s\r\n" % (n, HEADER.encode()) for n in range(500))
    + b"\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + WORD.encode() * 10,
)


async def not_http(one: Daemon) -> None:
    ports = [int(address.rpartition(":")[2]) for address in (one.http, one.grpc)]
    for port, sent in itertools.product(ports, NO_REQUESTS):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.closing(writer), contextlib.suppress(ConnectionError):
            writer.write(sent)
            async with asyncio.timeout(5):
                said = await reader.read(100_000)
                assert OTHER_KEY.encode() not in said
                _search_secrets("an answer to what is no request", repr(said))


def params(kind: str) -> messages_pb2.MessageParams:
    message = messages_pb2.InputMessage(role="user", content=content_pb2.Content(text=f"{PROMPT} {kind}"))
    return messages_pb2.MessageParams(model="m", max_tokens=8, messages=[message])


async def over_grpc(one: Daemon, key: str) -> None:
    metadata = (("authorization", f"Bearer {key}"), ("x-api-key", OTHER_KEY), ("x-note", HEADER))
    options = options_pb2.CallOptions(anthropic_headers={"anthropic-note": HEADER})
    async with grpc.aio.insecure_channel(one.grpc) as channel:
        stub, tickets = MessagesServiceStub(channel), TicketsServiceStub(channel)

        async def create(kind: str) -> None:
            with _refused():
                request = messages_service_pb2.CreateMessageRequest(params=params(kind), options=options)
                await stub.CreateMessage(request, metadata=metadata, timeout=3)

        async def stream(kind: str) -> None:
            with _refused():
                request = messages_service_pb2.StreamMessageRequest(params=params(kind), options=options)
                async for _ in stub.StreamMessage(request, metadata=metadata, timeout=3):
                    pass

        async def submit(kind: str, *, cancel: bool = False) -> None:
            request = messages_service_pb2.SubmitMessageRequest(params=params(kind), options=options)
            request.params.top_k = 7
            request.answer_timeout.FromSeconds(2)
            ticket = (await stub.SubmitMessage(request, metadata=metadata, timeout=20)).ticket
            if cancel:
                await tickets.CancelTicket(tickets_service_pb2.CancelTicketRequest(id=ticket.id), metadata=metadata, timeout=20)
            with _refused():
                await tickets.WaitTicket(tickets_service_pb2.WaitTicketRequest(id=ticket.id), metadata=metadata, timeout=20)

        await asyncio.gather(
            *(way(kind) for kind in KINDS for way in (create, stream, submit)),
            submit("over", cancel=True),
            submit("hang", cancel=True),
        )
        bad = await channel.unary_unary("/headrace.v1.MessagesService/CreateMessage")(PROMPT.encode(), metadata=metadata).code()
        assert bad is grpc.StatusCode.INVALID_ARGUMENT


_searched: Counter[str] = Counter()


def _search(what: str, text: str, key: str) -> None:
    """Look for every marker and for the caller's key; *what* says where."""
    _look_for((*MARKS, key, key.rpartition("_")[2]), what, text)


def _search_secrets(what: str, text: str, *more: str) -> None:
    """Look for keys and passwords alone, where prompts and answers belong."""
    _look_for((*SECRETS, *more), what, text)


def _look_for(marks: Iterable[str], what: str, text: str) -> None:
    _searched[what.partition(" /")[0]] += 1
    for mark in marks:
        at = text.find(mark)
        assert at < 0, f"{mark} in {what}: ...{text[max(0, at - 600) : at + 200]}"


def _search_files(directory: Path, key: str) -> None:
    for path in directory.rglob("*"):
        if path.is_file():
            _search("a file", path.read_bytes().decode("latin-1"), key)


@contextlib.contextmanager
def _refused() -> Iterator[None]:
    try:
        yield
    except grpc.aio.AioRpcError as error:
        _search_secrets("an error over gRPC", f"{error!r} {error.initial_metadata()} {error.trailing_metadata()}")


def _acl() -> list[str]:
    """The user of Redis that docs/installation.md tells people to make, with our password."""
    (line,) = re.findall(r"ACL SETUSER (headrace on >PASSWORD [^`]+)", INSTALLATION.read_text())
    return [*line.replace("PASSWORD", PASSWORD).split(), f"~{AUDIT}"]  # a stream that only tests switch on


COMMANDS = (
    "config check", "config show", "keys list", "keys create svc2", "keys revoke svc2", "cache stats", "limits", "usage",
    "cache purge --all", "keys revoke nobody", "cache purge --key 0",
)  # fmt: skip
WRONG = (
    {"REDIS__PASSWORD": PASSWORD}, {"UPSTREAM__KEY": OWN_KEY}, {"REDIS__URL": f"redis://:{PASSWORD}@localhost:1"},
    {"REDIS__URL": f"redis://localhost:1?ssl_password={PASSWORD}"}, {"UPSTREAM__PROXY": f"socks://a:{PASSWORD}@b"},
    {"UPSTREAM": OWN_KEY}, {"STATE__DIR": "/dev/null/x"}, {"LISTEN__HTTP": PASSWORD + "@x"},
)  # fmt: skip


def _commands(environ: Mapping[str, str], key: str) -> None:
    """Run the commands, as they are meant and with whatever is wrong about the configuration."""
    asked = [(line, {}) for line in COMMANDS]
    asked += [(line, wrong) for wrong in WRONG for line in ("config check", "config show", "keys list")]
    for line, wrong in asked:
        more = {f"HEADRACE_{name}": value for name, value in wrong.items()}
        done = subprocess.run(
            [HEADRACE, *line.split()], env={**environ, **more}, capture_output=True, text=True, check=False, timeout=60
        )
        known = (*SECRETS, key, key.rpartition("_")[2], PROMPT, SAID, HEADER, OTHER_KEY)
        _look_for(known, "a command", done.stdout + done.stderr)


def _processes(pid: int) -> Iterator[Path]:
    yield Path(f"/proc/{pid}")
    for child in Path(f"/proc/{pid}/task").glob("*/children"):
        for number in child.read_text().split():
            yield from _processes(int(number))


@pytest.mark.slow
@pytest.mark.parametrize("gate", ["on", "off"])  # off: every call comes to upstream
async def test_audit(valkey_url: str, tmp_path: Path, gate: str) -> None:
    """No prompt, answer, error's text, key or header comes out of the program."""
    _asked.clear()
    _searched.clear()
    with redis.Redis.from_url(valkey_url) as client:
        client.execute_command("ACL", "SETUSER", *_acl())
        client.execute_command("ACL", "LOG", "RESET")
    in_url, in_file = (f":{PASSWORD}", "") if gate == "on" else ("", f"{tmp_path}/password")
    own_url = valkey_url.replace("unix://", f"unix://headrace{in_url}@")
    for name, secret in (("admin", ADMIN_KEY), ("cipher", CIPHER_KEY), ("pepper", PEPPER), ("password", PASSWORD)):
        (tmp_path / name).write_text(secret)
    async with serving(talk) as upstream:
        settings = {
            "AUTH__REQUIRED": "true",
            "UPSTREAM__API_KEY": OWN_KEY,
            "UPSTREAM__ADMIN_API_KEY_FILE": f"{tmp_path}/admin",
            "STATE__ENCRYPTION_KEY_FILE": f"{tmp_path}/cipher",
            "AUTH__PEPPER_FILE": f"{tmp_path}/pepper",
            "REDIS__PASSWORD_FILE": in_file,
            "RETRY__BACKOFF": "0.05s..0.2s",
            "RETRY__MAX_ATTEMPTS": "3",
            "UPSTREAM__OVERLOAD_GATE": gate,
        }
        with debugging(), daemon(upstream.url, own_url, **settings) as one:
            # The same settings, for commands beside it.
            kept = {name: value for name, value in one.served.environ.items() if name not in DEBUG}
            environ = kept | {"HEADRACE_LISTEN__GRPC": json.dumps([one.grpc])}
            made = await asyncio.to_thread(
                subprocess.run, [HEADRACE, "keys", "create", "svc"], env=environ, capture_output=True, text=True, check=True
            )
            key = next(word for word in made.stdout.split() if word.startswith("hr_"))
            await asyncio.sleep(0.2)
            await asyncio.gather(over_http(one, key), over_grpc(one, key), not_http(one))
            await asyncio.to_thread(_commands, environ | {"HEADRACE_KEY": key}, key)
            one.served.process.send_signal(signal.SIGUSR1)
            await until(lambda: "state.shown" in one.served.log, within=20)
            for process in _processes(one.served.process.pid):
                _search("arguments", (process / "cmdline").read_text() + (process / "comm").read_text(), key)
            with redis.Redis.from_url(valkey_url) as client:
                names = list(client.scan_iter())
                assert any(_dump(client, name) for name in names)
                for name in names:
                    _search("a name in Redis", name.decode(errors="replace"), key)
                    _search("a value in Redis", _dump(client, name), key)
                denied = client.execute_command("ACL", "LOG")
                client.execute_command("ACL", "DELUSER", "headrace")
            _search_files(Path(environ["HEADRACE_STATE__DIR"]), key)
            one.served.process.send_signal(signal.SIGABRT)  # with the stacks of all threads as its last words
            await asyncio.to_thread(one.served.process.wait, 20)
        assert "Fatal Python error" in one.served.log
        events = [json.loads(line)["event"] for line in one.served.log.splitlines() if line.startswith("{")]
        assert "request.refused" in events
        assert "redis.lacks" not in events
        assert denied == []
        for line in one.served.log.splitlines():
            _search("a line of the log", line, key)
        print(f"{_searched.total()} outputs searched: {dict(_searched)}")
        assert _searched.total() > 400  # lines of one kind are rationed


@contextlib.contextmanager
def debugging() -> Iterator[None]:
    """Have a daemon started with all debugging on."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in DEBUG.items():
            patch.setenv(name, value)
        patch.setattr(daemon_process, "KEPT", (*daemon_process.KEPT, *DEBUG))
        yield


def _dump(client: redis.Redis, name: bytes) -> str:
    kind = client.type(name)
    readers = {
        b"string": client.get, b"hash": client.hgetall, b"set": client.smembers, b"list": lambda key: client.lrange(key, 0, -1),
        b"zset": lambda key: client.zrange(key, 0, -1), b"stream": client.xrange,
    }  # fmt: skip
    return str(readers[kind](name)) if kind in readers else ""
