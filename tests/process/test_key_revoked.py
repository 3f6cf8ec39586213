"""Keys at two installed daemons: revoked without a nudge, expired, rotated; and the commands for them."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from pathlib import Path

import aiohttp
import grpc
import pytest

from daemon_process import environment, headrace
from fleet import Daemon, daemon_beside, simulated
from headrace.keystore import KeyStore
from headrace.link import Link
from headrace.v1 import api_service_pb2, usage_service_pb2, usage_service_pb2_grpc
from looking import admin_url

REQUIRED = {"AUTH__REQUIRED": "true", "LISTEN__ADMIN": '["127.0.0.1:0"]'}


class Silent(Link):
    """A link whose nudges are lost."""

    async def tell_all(self, topic: str, payload: str = "") -> None:
        pass


async def known_over_http(one: Daemon, key: str) -> bool:
    headers = {"x-api-key": key, "anthropic-version": "2023-06-01", "cache-control": "only-if-cached"}
    async with aiohttp.ClientSession() as session, session.get(f"{one.http}/v1/models", headers=headers) as response:
        return response.status != 401


async def known_over_grpc(one: Daemon, key: str) -> bool:
    async with grpc.aio.insecure_channel(one.grpc) as channel:
        try:
            asked = usage_service_pb2.GetUsageRequest()
            await usage_service_pb2_grpc.UsageServiceStub(channel).GetUsage(asked, metadata=[("x-api-key", key)], timeout=10)
        except grpc.aio.AioRpcError as error:
            return error.code() is not grpc.StatusCode.UNAUTHENTICATED
    return True


async def known_in_call(one: Daemon, key: str) -> bool:
    """Within `ApiService.Call`, whose head comes with the key."""
    async with grpc.aio.insecure_channel(one.grpc) as channel:
        asked = api_service_pb2.CallRequest(head=api_service_pb2.CallRequestHead(method="GET", path="/v1/files"))
        call = channel.stream_stream("/headrace.v1.ApiService/Call")(
            iter([asked.SerializeToString()]), metadata=[("x-api-key", key)], timeout=10
        )
        return api_service_pb2.CallResponse.FromString(await call.read()).head.status != 401


async def known_to_the_page(one: Daemon, key: str) -> bool:
    """By the live page, which is not for its role, as a browser says it."""
    headers = {"authorization": f"Basic {base64.b64encode(f'any:{key}'.encode()).decode()}"}
    async with aiohttp.ClientSession() as session, session.get(f"{admin_url(one)}/admin/api", headers=headers) as response:
        assert response.status in (401, 403)
        return response.status == 403


DOORS = (known_over_http, known_over_grpc)  # each takes a moment to ask
ALL_DOORS = (*DOORS, known_in_call, known_to_the_page)


async def until_all(daemons, key: str, is_known: bool, doors=DOORS) -> float:
    """Ask all doors of all daemons until each knows a key, or none does; return the seconds since this began."""
    begun = time.monotonic()
    async with asyncio.timeout(20):
        await asyncio.gather(*(_until(door, one, key, is_known) for one in daemons for door in doors))
    return time.monotonic() - begun


async def _until(door, one: Daemon, key: str, is_known: bool) -> None:
    while await door(one, key) != is_known:  # noqa: ASYNC110
        await asyncio.sleep(0.01)  # so as not to measure how busy we are ourselves


async def test_nudge_lost(valkey_url: str) -> None:
    """A revocation whose nudge is lost is effective at both doors of both daemons within a second."""
    link = Silent(valkey_url)
    store = KeyStore(link)
    async with (
        simulated() as upstream,
        daemon_beside(upstream.url, valkey_url, **REQUIRED) as one,
        daemon_beside(upstream.url, valkey_url, **REQUIRED) as two,
    ):
        took = []
        for _ in range(5):
            key = await store.create("a")
            await until_all((one, two), key, True)
            await store.revoke(key.split("_")[1])
            took.append(await until_all((one, two), key, False))
    await link.aclose()
    print(f"refused after {', '.join(f'{each:.2f}' for each in took)} s")
    assert max(took) < 1.0


async def test_whoever_looks_on(valkey_url: str) -> None:
    """Events of the live page end within a second when the key by which they were asked for is revoked, or expires."""
    link = Link(valkey_url)
    store = KeyStore(link)
    async with simulated() as upstream, daemon_beside(upstream.url, valkey_url, **REQUIRED) as one:
        revoked, expiring = await store.create("a", role="observer"), await store.create("a", role="observer", lasts_s=6.0)
        await until_all((one,), await store.create("b"), True)

        async def look_on(key: str) -> float:
            events = f"{admin_url(one)}/admin/api/events"
            async with aiohttp.ClientSession() as session, session.get(events, headers={"x-api-key": key}) as response:
                assert response.status == 200
                looking.set()
                async with asyncio.timeout(20):
                    await response.read()
                return time.time()

        for key in (expiring, revoked):
            looking = asyncio.Event()
            ends = asyncio.create_task(look_on(key))
            await asyncio.wait_for(looking.wait(), 10)
            if key is revoked:
                await store.revoke(key.split("_")[1])
                until = time.time()
            else:
                until = next(each.expires for each in await store.list() if each.expires)
            assert await ends < until + 1.5
    await link.aclose()


async def test_expired_and_rotated(valkey_url: str) -> None:
    """A key that has expired is refused at every door, and so is one that was rotated, once the overlap is over."""
    link = Link(valkey_url)
    store = KeyStore(link)
    async with (
        simulated() as upstream,
        daemon_beside(upstream.url, valkey_url, **REQUIRED) as one,
        daemon_beside(upstream.url, valkey_url, **REQUIRED) as two,
    ):
        old = await store.create("a", lasts_s=60.0)
        await until_all((one, two), old, True, ALL_DOORS)
        new = await store.rotate(old.split("_")[1], overlap_s=3.0)
        await until_all((one, two), new, True, ALL_DOORS)
        assert all([await door(each, old) for door in ALL_DOORS for each in (one, two)])
        await until_all((one, two), old, False, ALL_DOORS)
        ends = {key.prefix: key.expires for key in await store.list()}[old[:15]]
        assert 0 <= time.time() - ends < 1.5
        assert all([await door(each, new) for door in ALL_DOORS for each in (one, two)])
        while (used := {key.prefix: key.used for key in await store.list()})[old[:15]] is None:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        assert abs(used[old[:15]] - time.time()) < 60
    await link.aclose()


def test_commands(tmp_path: Path, valkey_url: str) -> None:
    """A key is printed once, alone; the list tells role, expiry, last use and how it is hashed, and nothing of the secret."""
    pepper = tmp_path / "pepper"
    pepper.write_text("a pepper of enough characters\n")
    environ = environment(tmp_path, HEADRACE_REDIS__URL=valkey_url)
    peppered = environ | {"HEADRACE_AUTH__PEPPER_FILE": str(pepper)}

    def run(*arguments: str, environ=environ) -> str:
        done = headrace("keys", *arguments, environ=environ)
        assert done.returncode == 0, done.stderr
        return done.stdout

    first = run("create", "a", "--expires", "90d", "--role", "observer").strip()
    second = run("create", "b", environ=peppered).strip()
    third = run("rotate", first.split("_")[1], "--overlap", "1h").strip()
    assert all(key.startswith("hr_") and "\n" not in key for key in (first, second, third))

    told = run("list", "--json") + run("list")
    assert not any(key.split("_")[2] in told for key in (first, second, third))
    listed = {each["prefix"]: each for each in json.loads(run("list", "--json"))}
    assert {each["role"] for each in listed.values()} == {"observer", ""}
    assert listed[third[:15]]["expires"] - listed[third[:15]]["created"] == pytest.approx(90 * 86_400)
    assert listed[first[:15]]["expires"] - time.time() == pytest.approx(3600, abs=60)
    assert [listed[key[:15]]["hashed"].split(":")[0] for key in (first, second)] == ["sha256", "hmac-sha256"]
    assert {each["used"] for each in listed.values()} == {None}
    assert "observer" in told
    assert "as configured" in told

    for wrong in (("create", "a", "--expires", "soon"), ("create", "a", "--role", "king"), ("rotate", "0" * 12)):
        assert headrace("keys", *wrong, environ=environ).returncode != 0
    for content in ("", "short", None):
        if content is None:
            pepper.unlink()
        else:
            pepper.write_text(content)
        done = headrace("keys", "create", "a", environ=peppered)
        assert (done.returncode, "auth.pepper_file" in done.stderr) == (2, True)
    assert run("revoke", "a") == "revoked 2 keys\n"
