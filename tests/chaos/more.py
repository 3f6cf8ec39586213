"""Rows beside those of rows.py: an upstream that drips or says 529 for minutes, a read-only disk, a primary that is late."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping

from tests.chaos import rows
from tests.chaos.disks import read_only_disk
from tests.chaos.faults import Form
from tests.chaos.house import House
from tests.chaos.rows import EVERY_WAY, Row

_LONG_STORM = 5  # times as long as a storm
# SDKs repeat by themselves what was refused at the end of its time, and take that time again, longer than a word may take.
_OWN_WAYS = tuple(way for way in EVERY_WAY if not way.startswith("sdk"))


async def drip(house: House, dice: random.Random, form: Form) -> None:
    """Half of upstream's answers come a few bytes at a time."""
    await house.tell_upstream({"kind": "drip", "probability": 0.5, "delay_s": 2.0})
    await asyncio.sleep(dice.uniform(*form.spell_s) + 1.0)
    await house.tell_upstream()


async def long_storm(house: House, dice: random.Random, form: Form) -> None:
    """Upstream says 529 to everybody; in the long form for five minutes, longer than callers are patient."""
    await house.tell_upstream({"kind": "overloaded"})
    await asyncio.sleep(_LONG_STORM * form.storm_s)
    await house.tell_upstream()


async def still_primary(house: House, dice: random.Random, form: Form) -> None:
    """The primary stands still until the Sentinels have made another server the primary, and wakes."""
    assert house.group is not None
    await asyncio.to_thread(house.group.still_primary)


MORE: Mapping[str, Row] = {
    "drip": Row({"drip": drip}, rounds=3),
    "read-only": Row({"read-only": read_only_disk}, rounds=4, is_own=True, disk_mb=64),
    "two-primaries": Row({"still-primary": still_primary}, rounds=3, is_group=True),
    "storm": Row({"529-for-minutes": long_storm}, rounds=1, ways=_OWN_WAYS),
}
ROWS: Mapping[str, Row] = {**rows.ROWS, **MORE}
