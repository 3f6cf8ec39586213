"""The link to Redis, against a real one: what leaves together, what is said again, and what is away."""

import asyncio
import contextlib
import shutil
import ssl
from types import SimpleNamespace

import hiredis
import pytest
import uvloop

from conftest import missing, start_valkey, until
from headrace.errors import RedisAway, RedisRefused
from headrace.link import Link, Script
from headrace.pipe import Command, open_pipe


class Echo(Script):
    def __init__(self, text="return ARGV[1]"):
        self.name = "echo.lua"
        self.text = text
        import hashlib

        self.sha = hashlib.sha1(self.text.encode()).hexdigest()


async def test_one_turn_one_round_trip(link):
    """Commands of one turn of the loop leave together and are answered in order."""
    before = link.round_trips

    replies = await asyncio.gather(link.do("SET", "a", "1"), link.do("INCR", "a"), link.do("GET", "a"))

    assert replies == [b"OK", 2, b"2"]
    assert link.round_trips == before + 1


async def test_forgotten_script(link):
    """A script that Redis has never heard of is told, and then known."""
    assert await link.run(Echo(), [], ["x"]) == b"x"
    await link.do("SCRIPT", "FLUSH")
    assert await asyncio.gather(link.run(Echo(), [], ["y"]), link.run(Echo(), [], ["z"])) == [b"y", b"z"]


async def test_forgotten_in_order(link):
    """Scripts that Redis has forgotten run in the order in which they were asked for."""
    push = Echo("return redis.call('RPUSH', KEYS[1], ARGV[1])")

    await asyncio.gather(*(link.run(push, ["list"], [number]) for number in range(5)))

    assert await link.do("LRANGE", "list", 0, -1) == [b"0", b"1", b"2", b"3", b"4"]


async def test_one_error_is_one_callers(link):
    """A command that Redis refuses fails alone."""
    await link.do("SET", "a", "text")

    wrong, right = await asyncio.gather(link.do("INCR", "a"), link.do("GET", "a"), return_exceptions=True)

    assert (type(wrong), str(wrong)) == (RedisRefused, "Redis refused INCR: ERR")
    assert right == b"text"


async def test_cancelled_caller(link):
    """A caller who is cancelled leaves the others' commands undisturbed."""
    leaves = link.do("SET", "a", "1")
    stays = link.do("GET", "a")
    leaves.cancel()

    assert await stays == b"1"


async def test_nudges(link):
    """A nudge reaches its topic's handler, by inbox and by broadcast."""
    got = []
    link.on("topic", got.append)

    await link.do("PUBLISH", link.inbox, "topic one")
    await link.tell_all("topic", "two")

    await until(lambda: got == [b"one", b"two"])


async def test_redis_goes_and_comes_back(tmp_path):
    """Away is a RedisAway, soon; back is noticed by both the link and its listener."""
    process, url = start_valkey(tmp_path)
    link = Link(url, timeout_s=0.5)
    connected = []

    async def note():
        connected.append(1)

    link.on_connect(note)
    listening = asyncio.create_task(link.listen())
    await until(lambda: connected)

    process.terminate()
    process.wait(10)
    with pytest.raises(RedisAway):
        await link.do("PING")
    assert not link.is_up

    process, _ = start_valkey(tmp_path)
    await until(lambda: len(connected) == 2)
    assert await link.do("PING") == b"PONG"
    await until(lambda: repr(link) == "<Link [up, 0 to send, 0 in the air]>")

    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    await link.aclose()
    process.terminate()
    process.wait(10)


async def test_idle_connection_died(link):
    """That a connection died while it lay idle is no loss of Redis: a fresh one is opened."""
    await link.do("PING")
    link._pipe._transport.abort()

    assert await link.do("PING") == b"PONG"
    assert link.is_up


@pytest.mark.parametrize("times", [1, 2], ids=["once", "again and again"])
async def test_ends_as_it_is_opened(link, monkeypatch, times):
    """A connection that ends in the very turn in which it was opened holds nobody up: it is opened anew, and then given up."""
    opened = []

    async def open_and_end(*arguments):
        opened.append(pipe := await open_pipe(*arguments))
        if len(opened) <= times:
            pipe.close()
        return pipe

    monkeypatch.setattr("headrace.link.open_pipe", open_and_end)
    reply = asyncio.wait_for(link.do("ECHO", "here"), 10)
    if times == 1:
        assert await reply == b"here"
    else:
        with pytest.raises(RedisAway):
            await reply
    assert await link.do("ECHO", "still here") == b"still here"
    assert link.stats().owed == 0


async def test_refuses_writes(link):
    """A Redis that is full is as good as away, for those who would write."""
    await link.do("CONFIG", "SET", "maxmemory", "1")
    try:
        with pytest.raises(RedisAway):
            await link.do("SET", "a", "1")
        assert await link.do("GET", "a") is None
    finally:
        await link.do("CONFIG", "SET", "maxmemory", "0")


async def test_not_the_master(link):
    """A Redis that has become a replica is as good as away for writing, and the link is back when it may write again."""
    await link.do("REPLICAOF", "127.0.0.1", "1")
    try:
        with pytest.raises(RedisAway):
            await link.do("SET", "a", "1")
        assert not link.is_up
    finally:
        await link.do("REPLICAOF", "NO", "ONE")
    assert await link.do("SET", "a", "1") == b"OK"
    assert link.is_up


async def test_cut_off_in_the_middle(link):
    """What was on its way when the connection died is sent once more, in its order."""
    me = await link.do("CLIENT", "ID")

    async with asyncio.timeout(5):
        replies = await asyncio.gather(
            link.do("SET", "a", "1"),
            link.do("CLIENT", "KILL", "ID", me, "SKIPME", "no"),
            *(link.do("APPEND", "b", letter) for letter in "xyz"),
            return_exceptions=True,
        )

    assert replies[0] == b"OK"
    assert await link.do("GET", "b") == b"xyz"
    assert await link.do("CLIENT", "ID") != me


async def test_dies_with_each_try(link):
    """A command that takes the connection with it each time is not sent for ever."""
    await link.do("CONFIG", "SET", "client-query-buffer-limit", "1mb")
    try:
        with pytest.raises(RedisAway):
            await link.do("SET", "a", b"x" * 4_000_000)
        assert await link.do("PING") == b"PONG"
    finally:
        await link.do("CONFIG", "SET", "client-query-buffer-limit", "1gb")


def test_script_keeps_its_tries():
    """What is asked with the script itself has been tried as often as what was asked by its hash."""
    command = Command(("EVALSHA", "0" * 40, 0), None, "return 1")
    command.tries = 1

    assert command.with_script().tries == 1


async def test_no_redis_at_all():
    """What does not speak as Redis does is away, and so is what speaks out of turn."""

    async def babble(reader, writer):
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(babble, "127.0.0.1", 0) as server:
        link = Link(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}", timeout_s=0.5)
        with pytest.raises(RedisAway):
            await link.do("PING")
        await link.aclose()


async def _pass_on(reader, writer):
    with contextlib.closing(writer):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


@contextlib.asynccontextmanager
async def encrypted(url, directory):
    """A door to the Valkey at *url* that speaks TLS; yields its own URL."""
    openssl = shutil.which("openssl") or missing("openssl")
    key, certificate = directory / "key.pem", directory / "certificate.pem"
    made = await asyncio.create_subprocess_exec(
        openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key,
        "-out", certificate, "-days", "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1",
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert await made.wait() == 0

    async def serve(reader, writer):
        there, back = await asyncio.open_unix_connection(url.removeprefix("unix://"))
        await asyncio.gather(_pass_on(reader, back), _pass_on(there, writer), return_exceptions=True)

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
        yield f"rediss://127.0.0.1:{server.sockets[0].getsockname()[1]}?ssl_ca_certs={certificate}"


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_encrypted(valkey_url, tmp_path, run):
    """Over TLS all is the same, large values and a lost connection included."""

    async def go():
        async with encrypted(valkey_url, tmp_path) as url:
            link = Link(url, timeout_s=30)
            assert await link.do("SET", "a", b"x" * 3_000_000) == b"OK"
            assert len(await link.do("GET", "a")) == 3_000_000
            link._pipe._transport.abort()
            assert await asyncio.gather(*(link.do("INCR", "n") for _ in range(500))) == list(range(1, 501))
            await link.aclose()

    run(go())


async def test_out_of_turn(link):
    """What says something that nobody asked, or that is no reply at all, has lost count: the connection is given up."""
    for said in (b"+OK\r\n", b"\x00\r\n"):
        await link.do("PING")
        pipe = link._pipe
        pipe.data_received(said)
        assert link._pipe is None
        assert await link.do("PING") == b"PONG"


async def test_unsayable(link):
    """A command that cannot be said is its caller's mistake, and nobody else's."""
    good = link.do("SET", "a", "1")
    with pytest.raises(TypeError):
        link.do("SET", "a", object())
    with pytest.raises(UnicodeEncodeError):
        link.do("SET", "a", "\ud800")
    assert await good == b"OK"


async def test_closed_while_it_connects():
    """Closing does not wait for a connection that does not come about."""

    async def listen(reader, writer):
        await reader.read()
        writer.close()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as server:
        link = Link(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}", timeout_s=30)
        asked = link.do("PING")
        await until(lambda: link._opening is not None)
        await link.aclose()
        with pytest.raises(RedisAway, match="closed"):
            await asked


async def turns_until(condition):
    """Give the loop its turns, one by one, until something holds."""
    for _ in range(100):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never held")


async def test_opening_is_cancelled(link):
    """Whoever cancels the opening of a connection, as the end of a loop does, leaves nobody waiting."""
    asked = link.do("PING")
    await turns_until(lambda: link._opening is not None)
    link._opening.cancel()

    with pytest.raises(RedisAway):
        await asked
    assert await link.do("PING") == b"PONG"


async def test_cannot_write(link):
    """A write that fails ends the connection: replies to what may be half sent could not be told apart."""

    def fail(data):
        raise MemoryError

    await link.do("MSET", "a", "1", "b", "2")
    pipe = link._pipe
    pipe._transport = SimpleNamespace(write=fail, abort=pipe._transport.abort, get_write_buffer_size=lambda: 0)

    assert await asyncio.gather(link.do("GET", "a"), link.do("GET", "b")) == [b"1", b"2"]
    assert link._pipe is not pipe


async def test_closed(valkey_url):
    """At its end a link gives up what is in the air; after it, it sends nothing, and says so."""
    link = Link(valkey_url)
    await link.do("PING")
    in_the_air = link.do("PING")
    await turns_until(lambda: link._pipe.owed)
    await link.aclose()
    with pytest.raises(RedisAway, match="closed"):
        await in_the_air
    with pytest.raises(RedisAway):
        await link.do("PING")
    assert repr(link) == "<Link [up, 0 to send, 0 in the air]>"


async def test_large_words() -> None:
    """A large word goes as it is, between its length and its end; Redis sees no difference."""
    words = ("SET", "a", b"x" * 2_000_000, 7, "EX", b"y" * 1_500_000)
    command = Command(words, asyncio.get_running_loop().create_future())
    assert b"".join(command.pieces) == hiredis.pack_command(words)
    assert any(piece is words[2] for piece in command.pieces)
