"""BudgetsService: what is shown to whom, what may be changed by whom, and what a wrong change is told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from structlog.testing import capture_logs

from conftest import until
from doors import grpc_door
from flow_parts import asking, daemon
from grpc_fakes import details
from headrace.budget.organisation import Own
from headrace.budgets import show
from headrace.callers import KeyStore
from headrace.edge import budget_messages
from headrace.errors import CallerOnHold
from headrace.v1 import budgets_service_pb2 as pb
from headrace.v1.budgets_service_pb2_grpc import BudgetsServiceStub
from scripted import say_message, serving

LIMITS = json.dumps(
    [
        {"name": "org", "requests_per_minute": 600},
        {"name": "slow", "match": {"caller": "ann"}, "requests_per_minute": 1, "input_tokens_per_minute": 100_000},
        {"name": "each", "per": ["caller"], "concurrency": 5, "spend_per_day": 25},
    ]
)
KEYS = {"AUTH__REQUIRED": "true", "CALLER__BOSS__ROLE": "admin", "CALLER__EYE__ROLE": "observer"}
OPEN = {"AUTH__DEFAULT_ROLE": "admin"}  # no keys, and everybody an admin


class Door:
    """One daemon's parts, and how somebody asks its service."""

    def __init__(self, one, channel):
        self.one, self._stub = one, BudgetsServiceStub(channel)
        self._keys: dict[str, str] = {}

    async def ask(self, method: str, by: str = "", **request):
        if by and by not in self._keys:
            self._keys[by] = await KeyStore(self.one.parts.link).create(by)
            await self.one.parts.callers.load()
        metadata = (("x-api-key", self._keys[by]),) if by else ()
        message = getattr(pb, f"{method}Request")(**request)
        return await getattr(self._stub, method)(message, metadata=metadata, timeout=10)

    async def refused(self, method: str, by: str = "", **request) -> grpc.aio.AioRpcError:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await self.ask(method, by, **request)
        return refused.value

    async def limits(self, by: str = "") -> dict[str, pb.Limit]:
        return {limit.name: limit for limit in (await self.ask("ListBudgets", by)).limits}


@contextlib.asynccontextmanager
async def opened(url, path, **settings):
    """Open a daemon with some limits."""
    settings = {"LIMIT": LIMITS} | settings
    async with (
        serving(say_message) as server,
        daemon(url, server.url, path, **settings) as one,
        grpc_door(one, path, **settings) as channel,
    ):
        yield Door(one, channel)


async def test_shown(valkey_url, tmp_path):
    """Levels, rates and capacities are shown bucket by bucket, and whose each is."""
    async with opened(valkey_url, tmp_path) as door:
        await door.one.ask(door.one.call(caller="bob"))
        reply = await door.ask("ListBudgets")
        assert (reply.daemons, reply.daemons_heard) == (1, 1)
        org, slow, each = reply.limits
        [bucket] = org.budgets
        assert (bucket.kind, bucket.capacity, bucket.rate_per_minute, bucket.debt) == ("requests", 600, 600, 0)
        assert bucket.level == 599
        assert abs(bucket.full_time.seconds - time.time()) < 3
        assert (org.source, slow.source) == (pb.LIMIT_SOURCE_CONFIGURED,) * 2
        assert {bucket.kind: bucket.level for bucket in slow.budgets} == {"requests": 1, "input_tokens": 100_000}
        assert [(bucket.kind, dict(bucket.of)) for bucket in each.budgets] == [
            ("concurrency", {"caller": "bob"}), ("spend", {"caller": "bob"}),
        ]  # fmt: skip
        assert each.figures.spend_per_day_nano_usd == each.budgets[1].capacity == 25_000_000_000
        assert [limit.name for limit in (await door.ask("ListBudgets", limit="*l*")).limits] == ["slow"]
        assert (await door.ask("GetBudget", limit="org")).limit.budgets[0].bucket == "org:requests"


@pytest.mark.parametrize(("credentials", "holds"), [("own", 10), ("caller", 600)])
async def test_lowered(valkey_url, tmp_path, credentials, holds):
    """
    A bucket that is held at the organisation's own rate says so, and since when; where callers bring keys of their own, it is
    not for our organisation's list to say.
    """
    async with opened(valkey_url, tmp_path, UPSTREAM__CREDENTIALS=credentials, AUTH__REQUIRED="false") as door:
        door.one.parts.tuner.hear_account({"m": Own({"requests": 10}, ("m",))})
        state = await door.one.parts.board.state()
        org, slow, _ = [budget_messages.limit(shown, "") for shown in state.shown]
        assert (org.budgets[0].capacity, org.figures.requests_per_minute) == (holds, 600)
        is_lowered = holds < 600
        assert (org.budgets[0].source == pb.LIMIT_SOURCE_LEARNT) == org.budgets[0].HasField("since_time") == is_lowered
        assert org.source == pb.LIMIT_SOURCE_CONFIGURED
        assert {bucket.rate_per_minute for bucket in slow.budgets} == {1, 100_000}
        assert (
            any("org: held at 10 requests/min" in note for note in show.notes(pb.ListBudgetsResponse(limits=[org])))
            == is_lowered
        )


async def test_waiting(valkey_url, tmp_path):
    """Who waits stands at the bucket that holds it up, with its position and the time at which it will go."""
    async with opened(valkey_url, tmp_path) as door:
        await door.one.ask(door.one.call({"n": 0}))
        waiting = [asking(door.one, door.one.call({"n": n}, timeout_s=500)) for n in (1, 2, 3)]
        await until(lambda: "3 waiting" in repr(door.one.parts.schedule))
        slow = (await door.ask("GetBudget", limit="slow")).limit
        requests = next(bucket for bucket in slow.budgets if bucket.kind == "requests")
        assert requests.waiting_calls == 3
        assert [(who.caller, who.lane, who.calls) for who in requests.waiting_callers] == [("ann", "standard", 3)]
        assert [call.position for call in requests.waiting] == [1, 2, 3]
        spans = [call.expected_time.seconds - time.time() for call in requests.waiting]
        assert spans == pytest.approx([60, 120, 180], abs=4)
        assert all(call.latest_time.seconds - call.since_time.seconds in (499, 500, 501) for call in requests.waiting)
        everywhere = [bucket.waiting_calls for limit in (await door.limits()).values() for bucket in limit.budgets]
        assert sum(everywhere) == 3
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_impostor(valkey_url, tmp_path):
    """Where callers bring keys of their own, each sees who waits under its name and key, and names without keys are shown."""
    async with opened(valkey_url, tmp_path, UPSTREAM__CREDENTIALS="caller", AUTH__DEFAULT_ROLE="caller") as door:
        keys = {who: f"x-api-key:sk-{who}" for who in ("mine", "theirs")}
        await door.one.ask(door.one.call({"n": 0}, credential=keys["mine"]))
        calls = [door.one.call({"n": n}, timeout_s=500, credential=keys[who]) for n, who in ((1, "mine"), (2, "theirs"))]
        waiting = [asking(door.one, call) for call in calls]
        await until(lambda: "2 waiting" in repr(door.one.parts.schedule))
        board = door.one.parts.board
        [shown] = (await board.state("slow")).shown
        for of, calls_seen in ((calls[0].owner.text, 1), (calls[1].owner.text, 1), ("", 2)):
            said = next(bucket for bucket in budget_messages.limit(shown, of).budgets if bucket.kind == "requests")
            assert [(who.caller, who.calls) for who in said.waiting_callers] == [("ann", calls_seen)]
            assert [call.caller for call in said.waiting] == ["ann"] * calls_seen
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_reserved(valkey_url, tmp_path):
    """What is at upstream is reserved until it is settled."""
    held = asyncio.Event()

    async def talk(line):
        await held.wait()
        await say_message(line)

    async with (
        serving(talk) as server,
        daemon(valkey_url, server.url, tmp_path, LIMIT=LIMITS) as one,
        grpc_door(one, tmp_path) as channel,
    ):
        door = Door(one, channel)
        task = asking(one, one.call(caller="bob"))
        await until(lambda: one.parts.upstream.in_the_air == 1)
        limits = await door.limits()
        assert (limits["org"].budgets[0].reserved_calls, limits["org"].budgets[0].reserved) == (1, 1)
        permits = limits["each"].budgets[0]
        assert (permits.capacity, permits.level, permits.reserved) == (5, 4, 1)
        held.set()
        await task
        assert (await door.limits())["org"].budgets[0].reserved_calls == 0


async def test_set(valkey_url, tmp_path):
    """A limit is raised, those who wait go at once, and the configured figures are shown beside; deleted, they hold again."""
    async with opened(valkey_url, tmp_path, **OPEN) as door:
        await door.one.ask(door.one.call({"n": 0}))
        waiting = asking(door.one, door.one.call({"n": 1}, timeout_s=500))
        await until(lambda: "1 waiting" in repr(door.one.parts.schedule))
        with capture_logs() as logged:
            reply = await door.ask(
                "SetLimit", limit="slow", figures=pb.LimitFigures(requests_per_minute=6000), ttl=Duration(seconds=3600),
                reason="launch",
            )  # fmt: skip
        assert reply.limit.source == pb.LIMIT_SOURCE_OVERRIDDEN
        assert (reply.limit.figures.requests_per_minute, reply.limit.configured.requests_per_minute) == (6000, 1)
        assert reply.limit.figures.input_tokens_per_minute == 100_000
        assert (reply.limit.override.by, reply.limit.override.reason) == ("default", "launch")
        assert reply.limit.override.expire_time.seconds - time.time() == pytest.approx(3600, abs=5)
        await asyncio.wait_for(waiting, 5)
        [audit] = [line for line in logged if line["event"] == "limit.set"]
        assert (audit["limit"], audit["figures"], audit["by"]) == ("slow", {"requests_per_minute": 6000}, "default")
        assert audit["until"] - time.time() == pytest.approx(3600, abs=5)
        gone = await door.ask("DeleteLimit", limit="slow")
        assert (gone.limit.source, gone.limit.figures.requests_per_minute) == (pb.LIMIT_SOURCE_CONFIGURED, 1)


async def test_hold(valkey_url, tmp_path):
    """A caller on hold waits until it is released; one that is refused is told why, and when it may come back."""
    async with opened(valkey_url, tmp_path, **OPEN) as door:
        with capture_logs() as logged:
            await door.ask("HoldCaller", caller="bob", reason="runs wild")
        assert [line["by"] for line in logged if line["event"] == "caller.held"] == ["default"]
        waiting = asking(door.one, door.one.call(caller="bob"))
        await until(lambda: "1 waiting" in repr(door.one.parts.schedule.halting))
        await door.one.ask(door.one.call(caller="ann"))  # others go on
        [hold] = (await door.ask("ListBudgets")).holds
        assert (hold.caller, hold.refuse, hold.reason, hold.waiting_calls) == ("bob", False, "runs wild", 1)
        await door.ask("ReleaseCaller", caller="bob")
        await asyncio.wait_for(waiting, 5)

        await door.ask("HoldCaller", caller="bob", refuse=True, ttl=Duration(seconds=60))
        await door.one.ask(door.one.call(caller="bob"))  # from the cache
        with pytest.raises(CallerOnHold) as refused:
            await door.one.ask(door.one.call({"n": 2}, caller="bob"))
        assert refused.value.retry_after_s == pytest.approx(60, abs=5)


async def test_hold_those_who_wait(valkey_url, tmp_path):
    """A hold takes calls out of the line that stand there already, and leaves nothing behind."""
    async with opened(valkey_url, tmp_path, **OPEN) as door:
        await door.one.ask(door.one.call({"n": 0}))
        waiting = [asking(door.one, door.one.call({"n": n}, timeout_s=500)) for n in (1, 2)]
        await until(lambda: "2 waiting" in repr(door.one.parts.schedule))
        await door.ask("HoldCaller", caller="ann")
        await until(lambda: "2 waiting" in repr(door.one.parts.schedule.halting))
        assert [bucket.waiting_calls for bucket in (await door.limits())["slow"].budgets] == [0, 0]
        await door.ask("HoldCaller", caller="ann", refuse=True)
        for outcome in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(outcome, CallerOnHold)
        await until(lambda: not door.one.held())


async def test_roles(valkey_url, tmp_path):
    """Admins steer, observers look, callers see the buckets that are theirs and themselves in line."""
    async with opened(valkey_url, tmp_path, **KEYS) as door:
        for caller in ("ann", "bob"):
            await door.one.ask(door.one.call(caller=caller))
        for role in ("boss", "eye"):
            limits = await door.limits(role)
            assert list(limits) == ["org", "slow", "each"]
            assert {bucket.of["caller"] for bucket in limits["each"].budgets} == {"ann", "bob"}
        limits = await door.limits("bob")
        assert list(limits) == ["org", "each"]
        assert {bucket.of["caller"] for bucket in limits["each"].budgets} == {"bob"}
        assert (await door.refused("GetBudget", "bob", limit="slow")).code() is grpc.StatusCode.PERMISSION_DENIED
        steps = {
            "SetLimit": {"limit": "org", "figures": pb.LimitFigures(requests_per_minute=9)}, "DeleteLimit": {"limit": "org"},
            "HoldCaller": {"caller": "bob"}, "ReleaseCaller": {"caller": "bob"},
        }  # fmt: skip
        for role in ("bob", "eye"):
            for method, request in steps.items():
                assert (await door.refused(method, role, **request)).code() is grpc.StatusCode.PERMISSION_DENIED
        for method, request in steps.items():
            assert (await door.refused(method, **request)).code() is grpc.StatusCode.UNAUTHENTICATED
            await door.ask(method, "boss", **request)


async def test_no_keys(valkey_url, tmp_path):
    """Where no keys are asked for everybody looks, and nobody steers unless the default role says so."""
    async with opened(valkey_url, tmp_path) as door:
        assert len(await door.limits()) == 3
        refused = await door.refused("HoldCaller", caller="bob")
        assert refused.code() is grpc.StatusCode.PERMISSION_DENIED
        assert "auth.default_role" in refused.details()


WRONG = [
    ("SetLimit", {"limit": "slow"}, "figures", "set at least one of requests_per_minute"),
    ("SetLimit", {"limit": "slow", "figures": {"requests_per_minute": 0}}, "figures.requests_per_minute", "at least 1"),
    ("SetLimit", {"limit": "slow", "figures": {"concurrency": -1}}, "figures.concurrency", "at least 1"),
    ("SetLimit", {"limit": "slow", "figures": {"burst": Duration()}}, "figures.burst", "more than 0"),
    ("SetLimit", {"limit": "org", "figures": {"requests_per_minute": 5}, "ttl": Duration(seconds=-3)}, "ttl", "more than 0"),
    (
        "SetLimit", {"limit": "org", "figures": {"requests_per_minute": 5}, "expire_time": Timestamp(seconds=5)},
        "expire_time", "more than 0",
    ),
    ("SetLimit", {"limit": "org", "figures": {"requests_per_minute": 5}, "reason": "x" * 201}, "reason", "200 at most"),
    ("HoldCaller", {"caller": "no name"}, "caller", "1 to 64 letters"),
    ("HoldCaller", {"caller": "bob", "ttl": Duration(seconds=10**10)}, "ttl", "at most"),
    ("ReleaseCaller", {}, "caller", "name the caller"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "request_", "field", "right"), WRONG)
async def test_wrong(valkey_url, tmp_path, method, request_, field, right):
    """What is wrong is said with the field, the value, and what is right; nothing changes."""
    async with opened(valkey_url, tmp_path, **OPEN) as door:
        refused = await door.refused(method, **request_)
        assert refused.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert right in refused.details()
        assert details(refused)["BadRequest"].field_violations[0].field == field
        assert repr(door.one.parts.overrides) == "<Overrides [0 limits, 0 holds]>"


async def test_not_there(valkey_url, tmp_path):
    """Who names a limit that is not there hears of those that are; likewise of what is laid over them, and of holds."""
    async with opened(valkey_url, tmp_path, **OPEN) as door:
        await door.ask("HoldCaller", caller="bob")
        asked = [
            ("GetBudget", {"limit": "orgs"}, "org, slow, each", "LIMIT_NOT_FOUND"),
            ("SetLimit", {"limit": "orgs"}, "org, slow, each", "LIMIT_NOT_FOUND"),
            ("DeleteLimit", {"limit": "orgs"}, "org, slow, each", "LIMIT_NOT_FOUND"),
            ("DeleteLimit", {"limit": "org"}, "there are: none", "OVERRIDE_NOT_FOUND"),
            ("ReleaseCaller", {"caller": "ann"}, "there are: bob", "OVERRIDE_NOT_FOUND"),
        ]
        for method, request, there, reason in asked:
            refused = await door.refused(method, **request)
            assert refused.code() is grpc.StatusCode.NOT_FOUND
            assert there in refused.details()
            assert details(refused)["ErrorInfo"].reason == reason
