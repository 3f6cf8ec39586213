"""UsageService: who sees whose usage, and what is said to a question that makes no sense."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta

import grpc
import grpc.aio
import pytest

from doors import grpc_door
from flow_parts import daemon
from headrace.callers import KeyStore
from headrace.v1 import usage_service_pb2 as pb
from headrace.v1.usage_service_pb2_grpc import UsageServiceStub
from scripted import say_message, serving

KEYS = {"AUTH__REQUIRED": "true", "CALLER__BOSS__ROLE": "admin", "CALLER__EYE__ROLE": "observer"}


@contextlib.asynccontextmanager
async def asked(url, path, **settings):
    """Have two callers make a call each; yield how one asks for usage, by the name of who asks."""
    async with (
        serving(say_message) as server,
        daemon(url, server.url, path, **settings) as one,
        grpc_door(one, path, **settings) as channel,
    ):
        for caller in ("ann", "bob"):
            await one.ask(one.call(caller=caller))
            await one.ask(one.call(caller=caller))

        async def ask(by: str = "", **request):
            metadata = (("x-api-key", await KeyStore(one.parts.link).create(by)),) if by else ()
            if by:
                await one.parts.callers.load()
            return await UsageServiceStub(channel).GetUsage(pb.GetUsageRequest(**request), metadata=metadata, timeout=10)

        yield ask


def calls(reply) -> dict[str, tuple[int, int]]:
    return {",".join(row.group): (row.calls.upstream, row.calls.cache) for row in reply.rows}


async def test_without_keys(valkey_url, tmp_path):
    """Where nobody is asked for a key, a name means nothing, and everybody sees all."""
    async with asked(valkey_url, tmp_path) as ask:
        assert calls(await ask(group_by=["caller"])) == {"ann": (1, 1), "bob": (1, 1)}
        assert calls(await ask(caller="a*", group_by=["lane", "model"])) == {"standard,m": (1, 1)}


async def test_own(valkey_url, tmp_path):
    """A caller sees its own usage, and is refused another's; observers and admins see all."""
    async with asked(valkey_url, tmp_path, **KEYS) as ask:
        assert calls(await ask("ann", group_by=["caller"])) == {"ann": (1, 1)}
        assert calls(await ask("ann", caller="ann")) == {"": (1, 1)}
        for other in ("bob", "*", "an?"):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await ask("ann", caller=other)
            assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        for role in ("boss", "eye"):
            assert calls(await ask(role, group_by=["caller"])) == {"ann": (1, 1), "bob": (1, 1)}
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await ask()
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_own_key(valkey_url, tmp_path):
    """Where each caller's own key goes upstream, one sees what that key used, by whatever name it called itself."""
    own = {"UPSTREAM__CREDENTIALS": "caller"}
    async with (
        serving(say_message) as server,
        daemon(valkey_url, server.url, tmp_path, **own) as one,
        grpc_door(one, tmp_path, **own) as channel,
    ):
        for caller, key in (("ann", "hers"), ("bob", "hers"), ("ann", "his")):
            await one.ask(one.call(caller=caller, credential=f"x-api-key:{key}"))

        async def ask(key: str = "", **request):
            metadata = (("x-api-key", key),) if key else ()
            return await UsageServiceStub(channel).GetUsage(pb.GetUsageRequest(**request), metadata=metadata, timeout=10)

        assert calls(await ask("hers", group_by=["caller"])) == {"ann": (1, 0), "bob": (1, 0)}
        assert calls(await ask("his", group_by=["caller"])) == {"ann": (1, 0)}
        assert calls(await ask("his", caller="b*", group_by=["caller"])) == {}
        assert calls(await ask("nobodys", caller="*", group_by=["caller"])) == {}
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await ask()
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_spans(valkey_url, tmp_path):
    """Today is what is meant by no span; a span of the past has nothing in it, and its whole buckets are told."""
    async with asked(valkey_url, tmp_path) as ask:
        request = pb.GetUsageRequest(granularity=pb.USAGE_GRANULARITY_DAY)
        request.since_time.FromDatetime(datetime.now(UTC) - timedelta(days=3))
        request.until_time.FromDatetime(datetime.now(UTC) - timedelta(days=2))
        fields = {field.name: value for field, value in request.ListFields()}
        reply = await ask(**fields)
        assert not reply.rows
        assert reply.since_time.seconds % 86_400 == 0
        del fields["until_time"]
        [row] = (await ask(**fields)).rows
        assert row.begin_time.seconds % 86_400 == 0


@pytest.mark.parametrize("wrong", [{"group_by": ["colour"]}, {"granularity": 9}, {"since_time": {"seconds": 2**62}}])
async def test_no_question(valkey_url, tmp_path, wrong):
    """What cannot be asked is INVALID_ARGUMENT."""
    async with asked(valkey_url, tmp_path) as ask:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await ask(**wrong)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_admins_only(valkey_url, tmp_path):
    """An observer may look, but not run the organisation."""
    async with serving(say_message) as server, daemon(valkey_url, server.url, tmp_path, **KEYS) as one:
        caller = one.parts.callers._configured["eye"]
        from headrace.edge.asked import Request
        from headrace.errors import NotAllowed

        with pytest.raises(NotAllowed):
            async with one.parts.exchange.open(Request("GET", "/v1/organizations/users", caller=caller)):
                pass
