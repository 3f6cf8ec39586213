"""Lines of one kind are rationed, and what is left out is counted; others are not touched by it."""

from __future__ import annotations

import json
import logging

import structlog

from headrace import logs
from headrace.rations import Rations


class Now:
    def __init__(self):
        self.at = 0.0

    def __call__(self):
        return self.at


def test_take():
    """Some at once, then one every while, which says how many there were besides; a quiet kind has all of them again."""
    now = Now()
    rations = Rations(now, at_once=3, every_s=10)
    assert [rations.take("a") for _ in range(5)] == [0, 0, 0, None, None]
    assert rations.take("b") == 0
    assert repr(rations) == "<Rations [2 kinds, 2 left out]>"
    now.at = 10
    assert [rations.take("a") for _ in range(2)] == [2, None]
    now.at = 1000
    assert [rations.take("a") for _ in range(4)] == [1, 0, 0, None]


def test_bounded():
    """Of very many kinds those are forgotten that were quiet longest."""
    rations = Rations(Now(), at_once=1, most=100)
    for number in range(1000):
        rations.take(number)
        rations.take("loud")
    assert rations.stats().kinds == 100
    assert rations.take("loud") is None


def test_in_the_log(capsys):
    """A flood of warnings is some lines and a count; what tells of calls that went well is told of each."""
    logs.set_up_logs(console=False)
    try:
        log = structlog.get_logger()
        for number in range(200):
            log.warning("redis.refused", what="EVALSHA", code="OOM", number=number)
            log.warning("redis.refused", what="SET", code="OOM")
            log.info("ticket.ended", ticket=f"t{number}")
            log.info("listener.back")
    finally:
        structlog.reset_defaults()
        logging.basicConfig(force=True)
    said = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    counts = {}
    for line in said:
        key = line["event"], line.get("what")
        counts[key] = counts.get(key, 0) + 1
    assert counts == {
        ("redis.refused", "EVALSHA"): 5, ("redis.refused", "SET"): 5, ("ticket.ended", None): 200, ("listener.back", None): 5,
    }  # fmt: skip
