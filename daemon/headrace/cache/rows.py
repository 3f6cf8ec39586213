"""
What the disk tier does in diskcache's database, in one transaction each; it blocks, so it is for the tier's threads.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import diskcache

from headrace.cache.entry import Entry
from headrace.cache.filter import Filter
from headrace.cache.selector import Selector

# As the library would say it; its version is pinned.
_INSERT = (
    "INSERT INTO Cache(key, raw, store_time, expire_time, access_time, access_count, tag, mode, value)"
    " VALUES (?, 1, ?, ?, ?, 0, ?, ?, ?)"
)


def write(batch: Mapping[str, tuple[Entry, bytes]], now: float, cache: Any) -> int:
    """Write a batch in one transaction; return how many others had to go."""
    cache.disk.fresh_files.clear()
    try:
        with cache.transact():
            kept = _those_kept(cache, batch)
            plain = {key: put for key, put in batch.items() if key not in kept and len(put[1]) < cache.disk.min_file_size}
            # In one statement: one by one, and through the library, they would take five times as long, and hold up the loop.
            cache._con.executemany(_INSERT, [_row(key, *put, now) for key, put in plain.items()])
            for key in batch.keys() - plain.keys():
                entry, raw = batch[key]
                cache.set(key, raw, expire=entry.keep_until - now, tag=_tag(entry))
    except BaseException:
        # The rows are rolled back; their files are ours to remove.
        for filename in cache.disk.fresh_files:
            cache.disk.remove(filename)
        raise
    return int(cache.cull())


def _those_kept(cache: Any, batch: Iterable[str]) -> set[str]:
    keys = list(batch)
    marks = ",".join("?" * len(keys))
    rows = cache._sql(f"SELECT key FROM Cache WHERE raw = 1 AND key IN ({marks})", keys)  # noqa: S608  # question marks alone
    return {key for (key,) in rows}


def _row(key: str, entry: Entry, raw: bytes, now: float) -> tuple[Any, ...]:
    stored = time.time()  # by which the library measures
    return key, stored, stored + entry.keep_until - now, stored, _tag(entry), diskcache.core.MODE_RAW, raw


def _tag(entry: Entry) -> str:
    return json.dumps([entry.scope, entry.model, entry.asked])


def sweep(cache: Any, directory: Path) -> None:
    """Remove the files that a kill left behind before their rows were committed: the bound would not count them."""
    known = {filename for (filename,) in cache._sql("SELECT filename FROM Cache WHERE filename IS NOT NULL")}
    for path in directory.glob("*/*/*.val"):
        if str(path.relative_to(directory)) not in known:
            path.unlink(missing_ok=True)


def held(scope: str, cache: Any) -> tuple[int, int]:
    """Return how many entries one scope has, and their bytes."""
    # By the beginning of the tag, which `write` makes; in SQLite, since there may be a hundred thousand.
    begins = json.dumps([scope])[:-1] + ","
    [(entries, volume)] = cache._sql(
        "SELECT COUNT(*), COALESCE(SUM(CASE WHEN filename IS NULL THEN LENGTH(value) ELSE size END), 0) "
        "FROM Cache WHERE SUBSTR(tag, 1, ?) = ?",
        (len(begins), begins),
    ).fetchall()
    return entries, volume


def index(cache: Any) -> Filter:
    """Return a filter of all keys."""
    return Filter(key for (key,) in cache._sql("SELECT key FROM Cache"))


def purge(selectors: Sequence[Selector], cache: Any) -> int:
    """Remove what the selectors mean, and return how many entries went."""
    if any(selector.is_everything for selector in selectors):
        return int(cache.clear())
    # diskcache shows tags only together with values; its table (the version is pinned) has them apart.
    rows = cache._sql("SELECT key, tag FROM Cache").fetchall()
    selected = [key for key, tag in rows if means(selectors, key, *json.loads(tag))]
    for start in range(0, len(selected), 500):
        with cache.transact():
            for key in selected[start : start + 500]:
                cache.delete(key)
    return len(selected)


def means(selectors: Sequence[Selector], fingerprint: str, scope: str, model: str, asked: float = 0.0) -> bool:
    """Whether any of the selectors means an entry of which this is known."""
    return any(selector.matches(fingerprint, scope, model, asked) for selector in selectors)
