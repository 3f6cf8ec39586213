"""The live page's JSON and events, from two installed daemons: all hosts from either, who may look, who may act."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import stat
import time

import aiohttp
import pytest

from conftest import BY_THE_CLOCK
from daemon_process import headrace
from fleet import daemon_beside, simulated
from headrace.admin.views import VIEWS
from headrace.callers import KeyStore
from headrace.link import Link
from headrace.simulator import Options
from looking import ADMIN, MODEL, ROLES, House, admin_socket, admin_url, house, shown
from redis_wire import wired


@pytest.fixture
async def pair(valkey_url):
    async with simulated() as simulator, house(simulator.url, valkey_url) as made:
        yield made


async def test_all_hosts(pair: House):
    """Whatever happens at one daemon is seen at the other: budgets, who waits, callers, hosts, calls, usage."""
    for number in range(4):
        assert await pair.call(pair.one, text="same" if number < 2 else "") == 200
    waiting = [
        asyncio.create_task(pair.call(at, "reports", within_ms=500_000)) for at in (pair.one, pair.two) for _ in range(3)
    ]

    async def four_wait() -> bool:
        return sum(row["count"] for row in await pair.rows(pair.two, "line")) == 4

    await shown(four_wait)
    for at in (pair.one, pair.two):
        line = await pair.rows(at, "line")
        assert {row["caller"] for row in line} == {"reports"}
        assert {row["held_by"] for row in line} == {"reports"}
        assert len({row["daemon"] for row in line}) == 2
        assert all(row["since"] <= time.time() + 5 and row["latest"] > row["since"] for row in line)

        rows = {(row["limit"], row["kind"]): row for row in await pair.rows(at, "budgets")}
        reports = rows["reports", "requests"]
        assert (reports["waiting"], reports["capacity"]) == (4, 2)
        assert reports["used"] > 0.5
        assert reports["oldest"] is not None
        assert max(reports["history"]) > 50
        assert len(reports["history"]) == 180
        assert rows["org", "requests"]["of"] == {"model": MODEL}

        hosts = await pair.rows(at, "hosts")
        assert [row["state"] for row in hosts] == ["serving"] * 2
        assert len({row["config"] for row in hosts}) == 1
        assert all(row["version"] and row["redis_ms"] is not None and not row["worker"] for row in hosts)

    async def used() -> bool:
        found = [row for row in await pair.rows(pair.two, "usage") if row["caller"] == "ann"]
        return bool(found) and found[0]["calls"] == 4

    await shown(used)
    [ann] = [row for row in await pair.rows(pair.two, "usage") if row["caller"] == "ann"]
    assert (ann["model"], ann["hits"], ann["cost"] > 0, ann["saved"] > 0) == (MODEL, 1, True, True)
    callers = {row["name"]: row for row in await pair.rows(pair.two, "callers")}
    assert callers["reports"]["waiting"] == 4
    assert callers["ann"]["hits"] == pytest.approx(0.25)
    calls = await pair.rows(pair.two, "calls")
    status, said = await pair.view(pair.two, f"calls/{calls[0]['id']}")
    assert (status, len(said["rows"]), len(said["rows"][0]["tries"])) == (200, 1, 1)
    assert sum(phase["took"] for phase in said["rows"][0]["phases"]) == pytest.approx(said["rows"][0]["took"], abs=0.01)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_tickets(valkey_url):
    """Everybody's tickets are there, parked ones with when they are due; dead letters are requeued, cancelled and dropped."""
    options = Options.instant(rate_500=1.0)
    async with (
        simulated(options) as simulator,
        house(simulator.url, valkey_url, RETRY__MAX_ATTEMPTS="2", RETRY__BACKOFF="2s..3s") as pair,
    ):
        waiting = asyncio.create_task(pair.call(pair.one, "ann", **{"idempotency-key": "k1"}))

        async def found(state: str) -> bool:
            return bool(await pair.rows(pair.two, f"tickets?state={state}"))

        await shown(lambda: found("queued"))
        [ticket] = await pair.rows(pair.two, "tickets?state=queued&caller=an*")
        assert (ticket["caller"], ticket["state"]) == ("ann", "QUEUED")
        assert ticket["due"] > ticket["created"]
        assert await pair.rows(pair.two, "tickets?caller=bob") == []
        await shown(lambda: found("letter"))
        await waiting
        path = f"tickets/{ticket['id']}"
        assert await pair.act(pair.two, f"{path}/requeue", said={"reason": "once more"}) == (
            200,
            {"done": "the ticket is QUEUED again"},
        )
        assert (await pair.act(pair.one, f"{path}/cancel"))[1] == {"done": "the ticket is CANCELED"}
        told = [json.loads(line) for line in (pair.one.served.log + pair.two.served.log).splitlines() if "act.done" in line]
        assert {(line["act"], line["by"], line["reason"]) for line in told} == {
            ("ticket.requeued", "loopback", "once more"),
            ("ticket.canceled", "loopback", ""),
        }
        again = asyncio.create_task(pair.call(pair.one, "ann", **{"idempotency-key": "k2"}))
        await shown(lambda: found("letter"))
        await again
        [letter] = await pair.rows(pair.one, "tickets?state=letter")
        assert (await pair.act(pair.two, f"tickets/{letter['id']}/drop"))[0] == 200
        assert (await pair.act(pair.two, f"tickets/{letter['id']}/drop"))[0] == 404


async def events(pair: House, at, view: str, form: str = "/admin/api/events"):
    async with pair.session.get(f"{admin_url(at)}{form}?view={view}") as response:
        assert response.status == 200
        assert response.headers["content-type"] == "text/event-stream"
        async for line in response.content:
            if line.startswith(b"data: "):
                yield json.loads(line.removeprefix(b"data: "))


@BY_THE_CLOCK
async def test_within_a_second(pair: House):
    """Who looks at one daemon sees within a second, without asking again, who began to wait at the other."""
    for _ in range(2):
        await pair.call(pair.one, "reports")
    following = events(pair, pair.two, "line")
    assert (await anext(following))["rows"] == []
    html = events(pair, pair.two, "line", "/admin/events")
    assert "Nobody waits." in (await anext(html))["html"]
    await html.aclose()
    began = time.monotonic()
    waiting = asyncio.create_task(pair.call(pair.one, "reports", within_ms=500_000))
    async for said in following:
        if said["rows"]:
            break
    assert time.monotonic() - began < 1.0
    waiting.cancel()
    await following.aclose()


async def test_many_look(pair: House):
    """Twenty who look at one view cost what one costs: it is made as often, and Redis is asked as often."""

    async def look(seconds: float) -> int:
        seen, give_up = 0, time.monotonic() + seconds
        async for _ in events(pair, pair.two, "budgets"):
            seen += 1
            if time.monotonic() > give_up:
                break
        return seen

    seen = await asyncio.gather(*(look(3.0) for _ in range(20)))
    assert min(seen) >= 3
    made = await look(0.1)
    assert made
    assert max(seen) <= 3.0 / 0.4 + 3  # a tick, however many there are


async def test_who_may(valkey_url):
    """With keys: nobody without one, callers not at all, observers look, operators act; and the socket is no way around."""
    async with simulated() as simulator, house(simulator.url, valkey_url, **ROLES) as pair:
        status, _ = await pair.view(pair.one, "budgets")
        assert status == 401
        async with pair.session.get(f"{admin_url(pair.one)}/admin/budgets") as response:
            assert response.headers["www-authenticate"].startswith("Basic ")
        assert (await pair.view(pair.one, "budgets", "ann"))[0] == 403
        for view in VIEWS:
            assert (await pair.view(pair.one, view, "eye"))[0] == 200
        said = {"reason": "runs wild", "for_s": 60}
        assert (await pair.act(pair.one, "callers/reports/hold", "eye", said))[0] == 403
        assert (await pair.act(pair.one, "callers/reports/hold", "ops", said))[0] == 200

        async def is_held() -> bool:
            rows = {row["name"]: row for row in (await pair.view(pair.two, "callers", "eye"))[1]["rows"]}
            return "runs wild" in (rows.get("reports", {}).get("held") or "")

        await shown(is_held)
        assert (await pair.act(pair.two, "callers/reports/release", "ops"))[1] == {"done": "reports goes on"}
        assert (await pair.act(pair.two, "callers/nobody/release", "ops"))[0] == 404
        page = await _text(pair, "/admin/callers", pair.keys["eye"])
        assert "data-act" not in page
        assert "You are eye, and may look." in page
        await revoked_while_open(pair, valkey_url)
        connector = aiohttp.UnixConnector(admin_socket(pair.one))
        async with aiohttp.ClientSession(connector=connector) as over, over.get("http://localhost/admin/api/line") as response:
            assert response.status == 401


async def revoked_while_open(pair: House, valkey_url: str) -> None:
    """Who looks on with a key that is revoked sees no more."""
    link = Link(valkey_url)
    headers = {"x-api-key": pair.keys["eye"]}
    async with pair.session.get(f"{admin_url(pair.two)}/admin/api/events?view=hosts", headers=headers) as response:
        assert await response.content.readline() == b"retry: 1000\n"
        assert await KeyStore(link).revoke("eye")
        async with asyncio.timeout(10):
            while await response.content.readline():
                pass
    assert (await pair.view(pair.two, "hosts", "eye"))[0] == 401
    await link.aclose()


async def _text(pair: House, path: str, key: str = "") -> str:
    headers = {"authorization": f"Basic {base64.b64encode(f'any:{key}'.encode()).decode()}"} if key else {}
    async with pair.session.get(f"{admin_url(pair.one)}{path}", headers=headers) as response:
        assert response.status == 200
        return await response.text()


async def test_on_this_machine(pair: House):
    """Without keys: the socket is its user's alone, and tells who that is; loopback may, and whom a proxy brings may not."""
    path = admin_socket(pair.one)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as over:
        async with over.get("http://localhost/admin/api") as response:
            assert await response.json() == {"views": list(VIEWS), "by": f"uid:{os.getuid()}", "role": "operator"}
        async with over.post("http://localhost/admin/api/callers/bob/hold", json={}) as response:
            assert response.status == 200
    assert f'"by":"uid:{os.getuid()}"' in pair.one.served.log
    assert (await pair.view(pair.one, "line", **{"x-forwarded-for": "192.0.2.7"}))[0] == 403


async def test_pages_of_others(pair: House):
    """No page of another origin asks or acts, nor one that points its name at us; and an act must be JSON."""
    for headers in (
        {"host": "evil.example"},
        {"origin": "https://evil.example"},
        {"sec-fetch-site": "cross-site"},
        {"origin": "null"},
    ):
        assert (await pair.view(pair.one, "budgets", **headers))[0] == 403
        assert (await pair.act(pair.one, "callers/bob/hold", **headers))[0] == 403
    url = f"{admin_url(pair.one)}/admin/api/callers/bob/hold"
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        async with pair.session.post(url, data=b"{}", headers={"content-type": kind}) as response:
            assert response.status == 400
    for body in (b'"{;}\xff"', b"[" * 10_000, b"{"):
        async with pair.session.post(url, data=body, headers={"content-type": "application/json"}) as response:
            assert response.status == 400
    async with pair.session.get(f"{admin_url(pair.one)}/admin/budgets") as response:
        assert "script-src 'self'" in response.headers["content-security-policy"]
        assert "unsafe" not in response.headers["content-security-policy"]
        assert "access-control-allow-origin" not in response.headers
        assert response.headers["cache-control"] == "no-store"


async def test_odd_requests(pair: House):
    """What is not there is not there, what cannot be is refused, and a name stays text in the page."""
    assert (await pair.view(pair.one, "nothing"))[0] == 404
    assert (await pair.view(pair.one, "tickets?state=odd"))[0] == 400
    assert (await pair.view(pair.one, "usage?month=soon"))[0] == 400
    assert (await pair.view(pair.one, f"tickets?caller={'a' * 301}"))[0] == 400
    for said in ({"for_s": -1}, {"for_s": "x"}, {"reason": 5}, {"reason": "a" * 201}, [1]):
        assert (await pair.act(pair.one, "callers/bob/hold", said=said))[0] == 400
    assert (await pair.act(pair.one, "tickets/none/cancel"))[0] == 404
    page = await _text(pair, "/admin/calls/%3Cscript%3Ealert(1)%3C%2Fscript%3E")
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
    for path in ("/healthz", "/metrics", "/admin/page.css", "/admin/page.js", "/admin/icon.svg"):
        assert await _text(pair, path)


async def test_redis_away(pair: House, valkey_url):
    """A host that does not answer any more is told of as silent."""
    pair.two.served.process.kill()
    pair.two.served.process.wait()

    async def is_silent() -> bool:
        return (
            "silent" in [row["state"] for row in await pair.rows(pair.one, "hosts")]
            or len(await pair.rows(pair.one, "hosts")) == 1
        )

    await shown(is_silent)


async def test_top(pair: House, tmp_path):
    """`headrace top` prints one look within 80 columns, and JSON, over the socket; without a daemon it says so."""
    await pair.call(pair.one)
    environ = pair.one.served.environ
    ran = await asyncio.to_thread(headrace, "top", "--once", environ=environ)
    assert ran.returncode == 0, ran.stderr
    assert "org claude-sonnet" in ran.stdout or "org model" in ran.stdout
    assert max(map(len, ran.stdout.splitlines())) <= 80
    ran = await asyncio.to_thread(headrace, "top", "--json", environ=environ)
    assert {"summary", "budgets", "hosts"} <= json.loads(ran.stdout).keys()
    assert len(json.loads((await asyncio.to_thread(headrace, "top", "hosts", "--json", environ=environ)).stdout)["rows"]) == 2
    ran = await asyncio.to_thread(headrace, "top", "--once", environ=environ | {"HEADRACE_LISTEN__ADMIN": '["unix:none.sock"]'})
    assert (ran.returncode, "no daemon answers" in ran.stderr) == (1, True)
    ran = await asyncio.to_thread(headrace, "top", "--once", environ=environ | {"HEADRACE_LISTEN__ADMIN": "[]"})
    assert (ran.returncode, "listen.admin" in ran.stderr) == (2, True)


@pytest.mark.parametrize("how", ["--once", "--json"])
async def test_top_without_redis(valkey_url, tmp_path, how):
    """While Redis is away there is nothing to show: `headrace top` says so, by its exit code, too."""
    async with (
        simulated() as simulator,
        wired(valkey_url, tmp_path) as (url, wire),
        daemon_beside(simulator.url, url, **ADMIN) as one,
    ):
        wire.cut()

        async def says_so() -> bool:
            ran = await asyncio.to_thread(headrace, "top", "budgets", how, environ=one.served.environ)
            assert "budgets" in ran.stdout or "LIMIT" in ran.stdout
            return ran.returncode == 1 and "REDIS_AWAY" in ran.stderr

        await shown(says_so)
