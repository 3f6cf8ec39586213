"""A proxy on the way to upstream: named in the configuration or by the environment, for HTTP and, by CONNECT, for TLS."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import signal
import ssl
import subprocess
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from daemon_process import environment, headrace
from daemon_process import serving as running
from doors import BODY
from headrace import config
from headrace.config import places
from headrace.errors import ConfigError, Failure
from headrace.upstream import Upstream
from scripted import CALL, MESSAGE, Line, failure_of, say_message, serving

AUTH = "Basic " + base64.b64encode(b"me:pass word").decode()


@dataclass
class Proxy:
    """A proxy on loopback: what it was asked, and what it answers if not with a connection."""

    url: str = ""
    refusal: bytes = b""
    heads: list[bytes] = field(default_factory=list)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    to: int = 0  # the port to which it connects, whatever it is asked

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            if self.refusal:
                writer.write(self.refusal)
                await writer.drain()
            else:
                there, onward = await asyncio.open_connection("127.0.0.1", self.to)
                self.writers.append(onward)
                if head.startswith(b"CONNECT"):
                    writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
                else:
                    onward.write(head)
                await asyncio.gather(_pour(reader, onward), _pour(there, writer))
        writer.close()


async def _pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


@contextlib.asynccontextmanager
async def proxying(to: str, refusal: bytes = b"") -> AsyncIterator[Proxy]:
    proxy = Proxy(refusal=refusal, to=int(to.rpartition(":")[2]))
    listener = await asyncio.start_server(proxy.connected, "127.0.0.1", 0)
    proxy.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        listener.close()
        for writer in proxy.writers:
            writer.transport.abort()


def _certify(path: Path) -> None:
    what = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=api.example"
    more = ["-addext", "subjectAltName=DNS:api.example", "-keyout", path / "key", "-out", path / "cert"]
    subprocess.run(["openssl", *what.split(), *more], check=True, capture_output=True)


@contextlib.asynccontextmanager
async def tls(path: Path) -> AsyncIterator[tuple[int, str]]:
    """An upstream that speaks TLS; its port, and the file of certificates that are to be trusted."""
    await asyncio.to_thread(_certify, path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path / "cert", path / "key")

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            line = Line(reader, writer, 0)
            await line.hear()
            await say_message(line)
        writer.close()

    listener = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=context)
    try:
        yield listener.sockets[0].getsockname()[1], str(path / "cert")
    finally:
        listener.close()


@pytest.mark.parametrize("given", ["", "me:pass%20word@"])
async def test_http(given: str) -> None:
    """For an http URL the proxy is asked itself, with its own password, which upstream's key is not."""
    async with serving(say_message) as server, proxying(server.url) as proxy:
        upstream = Upstream("http://api.example:81", lambda: "k", proxy=proxy.url.replace("//", f"//{given}"))
        assert (await upstream.ask(CALL)).payload == MESSAGE
        assert proxy.heads[0].startswith(b"POST http://api.example:81/v1/messages HTTP/1.1\r\n")
        assert (f"proxy-authorization: {AUTH}".lower() in proxy.heads[0].decode().lower()) is bool(given)
        await upstream.aclose()


@pytest.mark.parametrize("given", ["", "me:pass%20word@"])
async def test_connect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    """For an https URL the proxy connects us, and sees no more than the name; SSL_CERT_FILE says whom we trust."""
    async with tls(tmp_path) as (port, trusted), proxying(f":{port}") as proxy:
        monkeypatch.setenv("SSL_CERT_FILE", trusted)
        upstream = Upstream("https://api.example", lambda: "SECRET", proxy=proxy.url.replace("//", f"//{given}"))
        assert (await upstream.ask(CALL)).payload == MESSAGE
        (head,) = proxy.heads
        assert head.startswith(b"CONNECT api.example:443 HTTP/1.1\r\n")
        assert (AUTH.encode() in head) is bool(given)
        assert b"SECRET" not in head
        await upstream.aclose()


@pytest.mark.parametrize(("status", "failure"), [(407, Failure.FINAL), (403, Failure.FINAL), (502, Failure.BROKEN)])
async def test_refused(status: int, failure: Failure) -> None:
    """A proxy that refuses is asked once; one that fails may do better next time. Surely nothing was sent."""
    async with proxying(":1", b"HTTP/1.1 %d No\r\ncontent-length: 0\r\n\r\n" % status) as proxy:
        upstream = Upstream("https://api.example", lambda: "k", proxy=proxy.url)
        failed = await failure_of(upstream.ask(CALL))
        assert (failed.failure, failed.sent, failed.error.status) == (failure, False, 502)
        assert failed.error.message == "upstream cannot be reached: the proxy on the way refuses"
        await upstream.aclose()


async def test_away() -> None:
    """A proxy that is not there is told from upstream."""
    upstream = Upstream("https://api.example", lambda: "k", proxy="http://127.0.0.1:1")
    failed = await failure_of(upstream.ask(CALL))
    assert (failed.failure, failed.sent) == (Failure.BROKEN, False)
    assert failed.error.message == "upstream cannot be reached: the proxy on the way does not answer"
    await upstream.aclose()


P = "http://proxy:3128"
ENVIRONMENTS = {
    "none": ({}, ""),
    "https": ({"HTTPS_PROXY": P}, P),
    "small": ({"https_proxy": P}, P),
    "small first": ({"https_proxy": P, "HTTPS_PROXY": "http://other"}, P),
    "http is for http": ({"HTTP_PROXY": P}, ""),
    "all": ({"ALL_PROXY": P}, P),
    "no scheme": ({"HTTPS_PROXY": "proxy:3128"}, P),
    "empty": ({"HTTPS_PROXY": ""}, ""),
    "spared": ({"HTTPS_PROXY": P, "NO_PROXY": "localhost,api.example"}, ""),
    "domain spared": ({"HTTPS_PROXY": P, "no_proxy": ".example"}, ""),
    "domain spared, no dot": ({"HTTPS_PROXY": P, "NO_PROXY": "example"}, ""),
    "domain spared, star": ({"HTTPS_PROXY": P, "NO_PROXY": "*.example"}, ""),
    "with a port": ({"HTTPS_PROXY": P, "NO_PROXY": "api.example:443"}, ""),
    "all spared": ({"HTTPS_PROXY": P, "NO_PROXY": "*"}, ""),
    "others spared": ({"HTTPS_PROXY": P, "NO_PROXY": "i.example, ple, 10.0.0.0/8,"}, P),
    "configured": ({"HTTPS_PROXY": "http://other", "HEADRACE_UPSTREAM__PROXY": P}, P),
    "configured, spared": ({"NO_PROXY": "*", "HEADRACE_UPSTREAM__PROXY": P}, P),
    "off": ({"HTTPS_PROXY": P, "HEADRACE_UPSTREAM__PROXY": "off"}, "off"),
    "SOCKS": ({"HTTPS_PROXY": "socks5://proxy:1080"}, ""),
}


@pytest.mark.parametrize(("environ", "proxy"), ENVIRONMENTS.values(), ids=ENVIRONMENTS.keys())
def test_environment(environ: dict[str, str], proxy: str) -> None:
    """Which proxy is in force, by the usual variables; the configuration goes before them."""
    base = {"HOME": "/", "HEADRACE_UPSTREAM__BASE_URL": "https://api.example"}
    settings = config.load(None, base | environ)
    assert settings.upstream.proxy == proxy
    warned = [text for text in config.warnings(settings, environ) if "HTTPS_PROXY" in text]
    assert bool(warned) is ("socks5" in str(environ))


def test_spared_address() -> None:
    """Addresses and networks are spared, too."""
    for spared in ("10.1.2.3", "10.0.0.0/8", "::1,10.1.0.0/16"):
        assert places.environments_proxy("https://10.1.2.3:8443", {"HTTPS_PROXY": P, "NO_PROXY": spared}) == ("", "")
    assert places.environments_proxy("http://10.1.2.3", {"HTTP_PROXY": P, "NO_PROXY": "11.0.0.0/8"}) == ("HTTP_PROXY", P)
    assert places.environments_proxy("http://10.1.2.3", {"HTTP_PROXY": P, "REQUEST_METHOD": "GET"}) == ("", "")


@pytest.mark.parametrize(
    "proxy", ["socks5://proxy:1080", "proxy:3128", "http://", "http://proxy/path", "ftp://me:secretpw@proxy"]
)
def test_no_proxy(proxy: str) -> None:
    """What is no proxy is a mistake that is named, its password is not."""
    with pytest.raises(ConfigError) as caught:
        config.load(None, {"HOME": "/", "HEADRACE_UPSTREAM__PROXY": proxy})
    assert "upstream.proxy" in str(caught.value)
    assert "secretpw" not in str(caught.value)


def test_hidden() -> None:
    """The password of a proxy is shown nowhere."""
    settings = config.load(None, {"HOME": "/", "HTTPS_PROXY": "http://me:secretpw@proxy:3128"})
    assert settings.redacted()["upstream"]["proxy"] == "http://me:***@proxy:3128"
    assert "secretpw" not in repr(settings)


@pytest.mark.parametrize("spared", ["", "127.0.0.1"])
async def test_daemon(tmp_path: Path, spared: str) -> None:
    """The installed program goes by what the environment says, `config show` shows it, and nothing says the password."""
    async with serving(say_message) as server, proxying(server.url) as proxy:
        named = proxy.url.replace("//", "//me:secretpw@")
        more = {
            "HEADRACE_UPSTREAM__BASE_URL": server.url,
            "HEADRACE_LISTEN__GRPC": "[]",
            "HTTP_PROXY": named,
            "NO_PROXY": spared,
        }
        environ = environment(tmp_path, HEADRACE_UPSTREAM__API_KEY="k", **more)
        shown = (await asyncio.to_thread(headrace, "config", "show", environ=environ)).stdout
        hidden = proxy.url.replace("//", "//me:***@")
        assert f'proxy = "{"" if spared else hidden}"' in shown

        def run() -> tuple[int, str]:
            with running(environ) as served:
                address = json.loads(next(line for line in served.log.splitlines() if "daemon.started" in line))["addresses"][
                    -1
                ]
                ask = urllib.request.Request(f"{address}/v1/messages", json.dumps(BODY).encode())
                opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
                status = opener.open(ask, timeout=20).status
                served.process.send_signal(signal.SIGUSR1)
                served.wait(lambda: "state.shown" in served.log)
                return status, served.log

        status, log = await asyncio.to_thread(run)
        assert (status, len(proxy.heads)) == (200, 0 if spared else 1)
        assert "secretpw" not in shown + log
