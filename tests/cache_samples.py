"""Entries to keep, and a disk to keep them on, for the tests of the cache."""

import contextlib
import time

from headrace.cache.disk import Disk
from headrace.cache.entry import Entry
from headrace.clock import SystemClock
from headrace.model import Answer, Form, Usage

BOUND = 400_000
SEEN = "0-0"  # no purge


def key(name):
    return str(name).rjust(64, "0")


def entry(name="1", payload=b'{"type":"message"}', *, created=None, asked=None, ttl_s=60.0, stale_s=60.0, **about):
    """Make one; *about*: scope and model of its call, and more of its answer."""
    created = time.time() if created is None else created
    asked = created if asked is None else asked
    scope, model = about.pop("scope", "me"), about.pop("model", "claude-x")
    answer = Answer(Form.JSON, payload, created, Usage(input_tokens=3, output_tokens=4), "req_1", is_kept=True, **about)
    return Entry(key(name), answer, scope, model, asked, created + ttl_s, created + ttl_s + stale_s)


@contextlib.asynccontextmanager
async def opened_disk(directory, bound=BOUND, **options):
    disk = Disk(directory, bound, SystemClock(), **options)
    await disk.open()
    try:
        yield disk
    finally:
        await disk.close()


async def put(store, kept):
    """Put one entry into a tier, whatever the tier calls it."""
    raw = kept.encode()
    if isinstance(store, Disk):
        store.write_soon(kept, raw)
    else:
        await store.put(kept, raw, SEEN)


async def keep(store, *entries):
    """Put entries into a tier."""
    for kept in entries:
        await put(store, kept)
