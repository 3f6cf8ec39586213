"""The doors over TLS: to whom they speak, whom a certificate stands for, and how certificates change while calls go on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import signal
import ssl
import subprocess
from pathlib import Path

import aiohttp
import grpc
import httpx
import pytest
from headrace_client import AsyncHeadrace
from headrace_client.httpx_transport import AsyncHeadraceTransport

from conftest import missing
from daemon_process import environment, headrace
from fleet import daemon_beside, simulated
from headrace.v1 import (
    messages_service_pb2,
    messages_service_pb2_grpc,
    options_pb2,
    usage_service_pb2,
    usage_service_pb2_grpc,
)
from pki import Authority, Pair

BODY = {"model": "claude-sonnet-4-5", "max_tokens": 8, "messages": [{"role": "user", "content": "hi"}]}
HEADERS = {"anthropic-version": "2023-06-01"}


def settings(server: Pair, **more: str) -> dict[str, str]:
    return {"LISTEN__TLS_CERTIFICATE": str(server.certificate), "LISTEN__TLS_KEY": str(server.key)} | more


def ran(*command: object, said: str = "") -> str:
    """Run a program of somebody else's, and return all that it says."""
    done = subprocess.run([*map(str, command)], input=said.encode(), capture_output=True, timeout=20, check=False)
    return (done.stdout + done.stderr).decode(errors="replace")  # what a server says may be frames


async def run(*command: object, said: str = "") -> str:
    return await asyncio.to_thread(ran, *command, said=said)


def client(authority: Authority, shows: Pair | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.certificate))
    if shows:
        context.load_cert_chain(shows.certificate, shows.key)
    return context


def channel(address: str, authority: Authority, shows: Pair | None = None) -> grpc.aio.Channel:
    more = (shows.key.read_bytes(), shows.certificate.read_bytes()) if shows else (None, None)
    credentials = grpc.ssl_channel_credentials(authority.certificate.read_bytes(), *more)
    # Each channel a connection of its own: grpcio shares them between channels that look alike.
    return grpc.aio.secure_channel(address, credentials, options=[("grpc.use_local_subchannel_pool", 1)])


async def create(over: grpc.aio.Channel, text: str = "hi") -> messages_service_pb2.CreateMessageResponse:
    request = messages_service_pb2.CreateMessageRequest(options=options_pb2.CallOptions(anthropic_version="2023-06-01"))
    request.params.model, request.params.max_tokens = "claude-sonnet-4-5", 8
    request.params.messages.add(role="user").content.text = text
    return await messages_service_pb2_grpc.MessagesServiceStub(over).CreateMessage(request, timeout=20)


async def test_tls(tmp_path: Path) -> None:
    """curl, openssl and gRPC speak TLS to it, from 1.2 on, in HTTP/1.1 and h2; who trusts another authority does not."""
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    async with simulated() as upstream, daemon_beside(upstream.url, **settings(authority.server())) as one:
        place = one.http.removeprefix("https://")
        assert one.http == f"https://{place}"
        asked = ("curl", "-sS", "-i", "--http2", "-H", "anthropic-version: 2023-06-01", "--json", json.dumps(BODY))
        assert (await run(*asked, f"{one.http}/v1/messages", "--cacert", authority.certificate)).startswith("HTTP/1.1 200")
        assert "unable to get local issuer" in await run(*asked, f"{one.http}/v1/messages", "--cacert", other.certificate)
        assert "HTTP/0.9" in (said := await run("curl", "-sS", f"http://{place}/healthz")) or "Empty reply" in said

        for address, offered, chosen in ((place, "h2,http/1.1", "http/1.1"), (one.grpc, "h2", "h2")):
            to = ("openssl", "s_client", "-connect", address, "-alpn", offered, "-CAfile", authority.certificate)
            for version in ("-tls1_2", "-tls1_3"):
                said = await run(*to, version, "-verify_return_error")
                assert f"ALPN protocol: {chosen}" in said
                assert "Verification: OK" in said
            assert "Cipher is (NONE)" in await run(*to, "-tls1_1", "-cipher", "ALL:@SECLEVEL=0")

        async with channel(one.grpc, authority) as over:
            assert (await create(over)).origin.source == options_pb2.ANSWER_SOURCE_CACHE
        for over in (channel(one.grpc, other), grpc.aio.insecure_channel(one.grpc)):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await create(over)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            await over.close()


async def test_client_certificates(tmp_path: Path, valkey_url: str) -> None:
    """Who shows no certificate, or a stranger's, is not let in; a name in it stands for a caller, and a key does beside it."""
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    shown = {
        "uri": authority.sign("uri", "DNS:x", "URI:spiffe://e/shop"), "dns": authority.sign("dns", "DNS:batch.internal"),
        "common": authority.sign("common", common="ops"), "hidden": authority.sign("hidden", "DNS:y", common="ops"),
    }  # fmt: skip
    mapped = '{ "spiffe://e/shop" = "shop", "batch.internal" = "batch", ops = "ops" }'
    more = {"AUTH__REQUIRED": "true", "LISTEN__TLS_CLIENTS": mapped, "LISTEN__TLS_CLIENT_CA": str(authority.certificate)}
    more["CALLER"] = '{ ops = { role = "observer" } }'
    async with (
        simulated() as upstream,
        daemon_beside(upstream.url, valkey_url, **settings(authority.server(), **more)) as one,
    ):
        who = {name: await seen_as(one, authority, pair) for name, pair in shown.items()}
        assert who == {"uri": {"shop"}, "dns": {"batch"}, "common": {"shop", "batch", "ops"}, "hidden": set()}

        key = headrace("keys", "create", "late", environ=environment(tmp_path, HEADRACE_REDIS__URL=valkey_url)).stdout.strip()
        async with asyncio.timeout(10):
            while await status(one, authority, shown["hidden"], {"x-api-key": key}) != 200:
                pass
        assert await status(one, authority, shown["uri"], {"x-api-key": key}) == 200
        assert await status(one, authority, shown["uri"], {"x-api-key": "sk-ant-dummy"}) == 200
        assert await status(one, authority, shown["uri"], {"x-api-key": f"hr_{'0' * 12}_{'0' * 48}"}) == 401

        for pair in (None, other.sign("stranger", "DNS:batch.internal")):
            with pytest.raises((aiohttp.ClientError, OSError)):
                await status(one, authority, pair)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                async with channel(one.grpc, authority, pair) as over:
                    await create(over)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def status(one, authority, pair, more=None) -> int:
    connector = aiohttp.TCPConnector(ssl=client(authority, pair), force_close=True)
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.post(f"{one.http}/v1/messages", json=BODY, headers=HEADERS | (more or {})) as response,
    ):
        await response.read()
        return response.status


async def seen_as(one, authority, pair) -> set[str]:
    """Whose usage both doors show to who shows this: its own, or an observer everybody's; nobody's if they know it not."""
    over_http = await status(one, authority, pair)
    async with channel(one.grpc, authority, pair) as over:
        if over_http == 401:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await create(over)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
            return set()
        await create(over)
        rows = await usage(over)
        return {row.group[0] for row in rows}


async def usage(over: grpc.aio.Channel):
    stub, request = usage_service_pb2_grpc.UsageServiceStub(over), usage_service_pb2.GetUsageRequest(group_by=["caller"])
    rows = (await stub.GetUsage(request, timeout=10)).rows
    return rows or await usage(over)  # it is posted a moment later


async def serial(place: str, authority: Authority) -> str:
    """The number of the certificate that is shown to a new connection."""
    said = await run(
        "openssl", "s_client", "-connect", place, "-alpn", "h2,http/1.1", "-CAfile", authority.certificate, "-showcerts"
    )
    pem = re.search(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n", said, re.S)
    return (await run("openssl", "x509", "-noout", "-serial", said=pem[0])) if pem else said


async def test_renewal_under_load(tmp_path: Path) -> None:
    """The certificate changes while both doors are under load, by new connections and old ones: no call fails."""
    authority = Authority(tmp_path)
    server, next_one = authority.server(), [authority.server(f"next{n}") for n in range(3)]
    async with simulated() as upstream, daemon_beside(upstream.url, **settings(server)) as one:
        place, calls, over = one.http.removeprefix("https://"), [0, 0], asyncio.Event()

        async def by_http(keeps: bool) -> None:
            connector = aiohttp.TCPConnector(ssl=client(authority), force_close=not keeps)
            async with aiohttp.ClientSession(connector=connector) as session:
                while not over.is_set():
                    async with session.post(f"{one.http}/v1/messages", json=BODY, headers=HEADERS) as response:
                        assert response.status == 200
                        calls[0] += 1

        async def by_grpc(keeps: bool) -> None:
            async with contextlib.AsyncExitStack() as stack:
                kept = await stack.enter_async_context(channel(one.grpc, authority))
                while not over.is_set():
                    if keeps:
                        await create(kept)
                    else:
                        async with channel(one.grpc, authority) as fresh:
                            await create(fresh)
                    calls[1] += 1

        async def renewals() -> None:
            for number, pair in enumerate(next_one):
                before = {await serial(place, authority), await serial(one.grpc, authority)}
                assert len(before) == 1
                server.becomes(pair)
                if number:
                    one.served.process.send_signal(signal.SIGHUP)
                while {await serial(place, authority), await serial(one.grpc, authority)} & before:
                    assert not any(task.done() for task in loads)
            over.set()

        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            loads = [group.create_task(work(keeps)) for work in (by_http, by_grpc) for keeps in (True, False)]
            group.create_task(renewals())
        print(f"{calls[0]} calls over HTTP, {calls[1]} over gRPC, {one.served.log.count('certificate.renewed')} renewals")
        assert min(calls) > 50
        assert one.served.log.count('"certificate.renewed"') == 3


async def test_authority_changes(tmp_path: Path) -> None:
    """Who must have signed clients' certificates changes, too: then the old ones are let in no more, nor by an old session."""
    old, new = Authority(tmp_path), Authority(tmp_path, "new")
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(old.certificate.read_bytes())
    shows = {old: old.sign("a", "DNS:a"), new: new.sign("b", "DNS:b")}
    more = {"LISTEN__TLS_CLIENT_CA": str(trusted)}
    async with simulated() as upstream, daemon_beside(upstream.url, **settings(old.server(), **more)) as one:
        place, session = one.http.removeprefix("https://"), tmp_path / "session"
        files = ("-CAfile", old.certificate, "-cert", shows[old].certificate, "-key", shows[old].key, "-tls1_2")
        asked = ("openssl", "s_client", "-connect", place, *files, "-quiet", "-ign_eof")
        request = "GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        assert "200 OK" in await run(*asked, "-sess_out", session, said=request)
        assert [await lets_in(one, old, shows[by]) for by in (old, new)] == [(True, True), (False, False)]

        trusted.write_bytes(new.certificate.read_bytes())
        one.served.process.send_signal(signal.SIGHUP)
        async with asyncio.timeout(10):
            while await lets_in(one, old, shows[new]) != (True, True):
                pass
        assert await lets_in(one, old, shows[old]) == (False, False)
        assert "200 OK" not in await run(*asked, "-sess_in", session, said=request)


async def lets_in(one, authority: Authority, shows: Pair) -> tuple[bool, bool]:
    """Whether each door lets in who shows this."""
    over_http = over_grpc = True
    try:
        await status(one, authority, shows)
    except (aiohttp.ClientError, OSError):
        over_http = False
    async with channel(one.grpc, authority, shows) as over:
        try:
            await create(over)
        except grpc.aio.AioRpcError:
            over_grpc = False
    return over_http, over_grpc


async def test_broken_renewal(tmp_path: Path) -> None:
    """Files that are no good leave the old certificate in use, and that is said once; what is mended is used."""
    authority = Authority(tmp_path)
    server, good, other = authority.server(), authority.server("good"), authority.server("stranger")
    async with simulated() as upstream, daemon_beside(upstream.url, **settings(server)) as one:
        before = await serial(one.grpc, authority)
        for broken in (b"", b"rubbish", other.key.read_bytes()):
            server.key.write_bytes(broken)
            for _ in range(2):
                one.served.process.send_signal(signal.SIGHUP)
                await asyncio.to_thread(one.served.hear, "RELOADING=1")
                assert await serial(one.grpc, authority) == before == await serial(one.http.removeprefix("https://"), authority)
            assert '"certificate.rejected"' in one.served.log
        assert one.served.log.count('"certificate.rejected"') <= 3
        server.key.unlink()
        server.becomes(good)
        one.served.process.send_signal(signal.SIGHUP)
        async with asyncio.timeout(10):
            while await serial(one.grpc, authority) == before:
                pass


async def test_grpcurl(tmp_path: Path) -> None:
    """grpcurl finds out what there is, and asks it, with a client certificate."""
    grpcurl = shutil.which("grpcurl") or missing("grpcurl")
    authority = Authority(tmp_path)
    shows, more = authority.sign("shop", "DNS:shop.internal"), {"LISTEN__TLS_CLIENT_CA": str(authority.certificate)}
    async with simulated() as upstream, daemon_beside(upstream.url, **settings(authority.server(), **more)) as one:
        files = ("-cacert", authority.certificate, "-cert", shows.certificate, "-key", shows.key)
        assert "headrace.v1.MessagesService" in await run(grpcurl, *files, one.grpc, "list")
        asked = {"options": {"anthropicVersion": "2023-06-01"}, "params": {"model": "claude-sonnet-4-5", "maxTokens": 8}}
        asked["params"]["messages"] = [{"role": "user", "content": {"text": "hi"}}]
        said = await run(grpcurl, *files, "-d", json.dumps(asked), one.grpc, "headrace.v1.MessagesService/CreateMessage")
        assert json.loads(said)["origin"]["source"] == "ANSWER_SOURCE_UPSTREAM", said
        assert "Failed to dial" in await run(grpcurl, *files[:2], "-connect-timeout", "3", one.grpc, "list")


async def test_python_client(tmp_path: Path) -> None:
    """Our own client, and its transport for SDKs, speak TLS with a certificate of their own."""
    authority = Authority(tmp_path)
    shows, more = authority.sign("shop", "DNS:shop.internal"), {"LISTEN__TLS_CLIENT_CA": str(authority.certificate)}
    files = (authority.certificate, shows.key, shows.certificate)
    credentials = grpc.ssl_channel_credentials(*(file.read_bytes() for file in files))
    async with simulated() as upstream, daemon_beside(upstream.url, **settings(authority.server(), **more)) as one:
        async with AsyncHeadrace(one.grpc, anthropic_version="2023-06-01", credentials=credentials) as asker:
            said = await asker.messages.create(**BODY)
            assert said.origin.source == options_pb2.ANSWER_SOURCE_UPSTREAM
        async with httpx.AsyncClient(transport=AsyncHeadraceTransport(one.grpc, credentials)) as asker:
            said = await asker.post("https://api.anthropic.com/v1/messages", json=BODY, headers=HEADERS)
            assert (said.status_code, said.headers["x-headrace-source"]) == (200, "cache")


async def test_commands(tmp_path: Path) -> None:
    """With TLS commands go over the unix socket, and say what to do where there is none."""
    server, at = Authority(tmp_path).server(), f"unix:{tmp_path}/h.sock"
    tls = settings(server)
    async with simulated() as upstream, daemon_beside(upstream.url, **tls, LISTEN__GRPC=f'["127.0.0.1:0", "{at}"]'):
        environ = environment(tmp_path, **{f"HEADRACE_{name}": value for name, value in tls.items()})
        asked = environ | {"HEADRACE_LISTEN__GRPC": f'["127.0.0.1:7400", "{at}"]'}
        done = await asyncio.to_thread(headrace, "cache", "stats", environ=asked)
        assert (done.returncode, "memory" in done.stdout) == (0, True), done.stderr
        done = await asyncio.to_thread(
            headrace, "cache", "stats", environ=environ | {"HEADRACE_LISTEN__GRPC": '["[::1]:7400"]'}
        )
        assert (done.returncode, "unix socket" in done.stderr) == (2, True)


async def test_strangers_are_no_news(tmp_path: Path) -> None:
    """Whatever comes that is no TLS, or shows no certificate, is no line in the log: anybody can do that all day."""
    authority = Authority(tmp_path)
    more = {"LISTEN__TLS_CLIENT_CA": str(authority.certificate)}
    async with simulated() as upstream, daemon_beside(upstream.url, **settings(authority.server(), **more)) as one:
        before = one.served.log.count("\n")
        for place in (one.http.removeprefix("https://"), one.grpc):
            for _ in range(50):
                await knock(place, None, b"GET / HTTP/1.1\r\n\r\n")
                await knock(place, client(authority), b"")
        assert one.served.log.count("\n") - before <= 2


async def knock(place: str, tls: ssl.SSLContext | None, said: bytes) -> None:
    host, _, port = place.rpartition(":")
    with contextlib.suppress(OSError):
        reader, writer = await asyncio.open_connection(host, int(port), ssl=tls)
        writer.write(said)
        await reader.read(100)
        writer.close()


def test_no_good_from_the_start(tmp_path: Path) -> None:
    """With files that do not fit, or are not there, it does not start, and says which and why."""
    authority = Authority(tmp_path)
    server, other = authority.server(), authority.server("other")
    for certificate, key, why in (
        (server.certificate, other.key, "KEY_VALUES_MISMATCH"),
        (tmp_path / "none.pem", server.key, "none.pem: No such file"),
    ):
        environ = environment(
            tmp_path, HEADRACE_LISTEN__GRPC="[]", HEADRACE_LISTEN__TLS_CERTIFICATE=str(certificate),
            HEADRACE_LISTEN__TLS_KEY=str(key),
        )  # fmt: skip
        done = headrace("serve", environ=environ)
        assert done.returncode == 1
        assert why in done.stderr
