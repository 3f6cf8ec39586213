"""A reload that puts a caller into another team: what it uses from then on counts for that one, its hits, too."""

from __future__ import annotations

from pathlib import Path

from flow_parts import Daemon, running
from headrace import config
from headrace.edge.hits import outcome_of
from headrace.model import Call


def call(one: Daemon, number: int) -> Call:
    return one.call({"n": number}, caller=one.parts.callers.identify("", "ann"))


async def test_team(valkey_url: str, tmp_path: Path) -> None:
    """Upstream's answers, answers out of the cache, hits of the same bytes, also of a call that was in the air meanwhile."""
    async with running(valkey_url, tmp_path, CALLER__ANN__TEAM="red") as (one, _):
        hits, teams = one.parts.hits, []
        one.parts.outcomes.listen(lambda outcome: teams.append(outcome.team))
        first = call(one, 1)
        await one.ask(first)
        hits.remember(b"1", first)
        assert (hit := hits.glance(b"1")) is not None
        assert outcome_of(hit, "http").team == "red"

        before = call(one, 2)
        one.parts.reload(config.load(None, {"HEADRACE_STATE__DIR": str(tmp_path), "HEADRACE_CALLER__ANN__TEAM": "blue"}))
        assert hits.glance(b"1") is None
        await one.ask(before)
        hits.remember(b"2", before)
        assert hits.glance(b"2") is None

        teams.clear()
        for number in (1, 3):
            again = call(one, number)
            await one.ask(again)
            hits.remember(b"%d" % number, again)
            assert (hit := hits.glance(b"%d" % number)) is not None
            assert outcome_of(hit, "http").team == "blue"
        assert set(teams) == {"blue"}
