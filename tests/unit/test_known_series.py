"""What is known to come begins at 0: the names that observe.py lists are those that the code counts by."""

from __future__ import annotations

import re
from pathlib import Path

from headrace import config, observe
from headrace.edge import http_refusals
from headrace.instruments import Counter
from headrace.meters import Meters
from headrace.wiring import Parts

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "daemon" / "headrace"


def begun(counter: Counter, **picked: str) -> set[str]:
    """Return the last label's values of the series that are there, of those that have the picked ones."""
    samples = [sample.labels for sample in counter.collect().samples]
    return {labels[counter.labels[-1]] for labels in samples if picked.items() <= labels.items()}


def test_refusals() -> None:
    """Each reason for which a door refuses has a series of that door before the first of its kind."""
    kinds = {each.kind for each in vars(http_refusals).values() if isinstance(each, http_refusals.Refused)}
    assert begun(observe.REFUSED, door="http") == kinds
    ends = set(re.findall(r'self\._end\(line, "(\w+)"\)', (PACKAGE / "edge" / "grpc_watch.py").read_text()))
    assert "flood" in ends
    assert begun(observe.REFUSED, door="grpc") == ends


def test_records() -> None:
    """Each kind of record that may be unreadable has a series, and stands on the page."""
    code = "".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    kinds = set(re.findall(r'(?:records\.unreadable|or_nothing)\(\s*"([^"]+)", ', code))
    assert {"ticket", "cache entry"} <= kinds <= begun(observe.BAD_RECORDS)
    row = re.search(r"^\| `headrace_bad_records_total` \| `kind`: ([^|]+) \|", (ROOT / "docs" / "metrics.md").read_text(), re.M)
    assert row is not None
    assert set(row[1].split(", ")) == begun(observe.BAD_RECORDS)


def test_shadows() -> None:
    """A limit that only counts begins with all that it may decide, and no other limit does."""
    Meters(str, 5).reload((), (), ["held by it", "only counted"], ["only counted"], 5)
    assert begun(observe.SHADOW, limit="only counted") == {"granted", "held", "refused", "unknown"}
    assert begun(observe.SHADOW, limit="held by it") == set()


async def test_reload(tmp_path: Path) -> None:
    """A reload with a longer `retry.max_age`, which waits for a restart, takes nothing back of what was counted."""

    def settings(max_age: str) -> config.Settings:
        return config.load(None, {"HEADRACE_STATE__DIR": str(tmp_path), "HEADRACE_RETRY__MAX_AGE": max_age})

    parts = Parts(settings("9m30s"), "redis://127.0.0.1:1", lambda: config.Keys("own-key", ""))
    observe.TURN_WAIT.observe(0.1)
    before = list(observe.TURN_WAIT.collect().samples)
    parts.reload(settings("96h"))
    assert list(observe.TURN_WAIT.collect().samples) == before
