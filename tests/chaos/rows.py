"""
The rows of a chaos run: what the house is like, and which faults it sees, one after the other, in an order that the seed draws.

A row that waits for something to be mended is measured and shown, and breaks nothing yet; what it waits for stands beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.chaos import ends, faults, moods
from tests.chaos.faults import Fault

_SLOWLY = ("--first-token", "0.05", "--tokens-per-second", "200")
EVERY_WAY = ("http", "http-stream", "grpc", "grpc-stream", "submitted", "sdk", "sdk-stream", "client", "client-stream")
_TS = ("ts", "ts-stream")
_OTHERS = ("go", "go-stream", *_TS)


@dataclass(frozen=True, slots=True)
class Row:
    """
    One row.

    Args:
        faults: by name; each is done `rounds` times in the long form, and once in the short one.
        short: how many of them the short form draws; 0 is all.
        callers: how many there are.
        is_own: whether the one daemon runs a Valkey of its own.
        is_group: whether Redis is a primary with replicas and Sentinels.
        others: clients in other languages, if they can be built here; `short_others` in the short form.
        waits_for: what has to be mended before it counts; "" is nothing.
        disk_mb: the state lies on a disk of this size, where the machine lets us make one.
    """

    faults: Mapping[str, Fault]
    rounds: int = 3
    short: int = 0
    callers: int = 16
    ways: tuple[str, ...] = EVERY_WAY
    others: tuple[str, ...] = ()
    short_others: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    upstream: tuple[str, ...] = _SLOWLY
    is_own: bool = False
    is_group: bool = False
    waits_for: str = ""
    disk_mb: int = 0


_KILLS: Mapping[str, Fault] = {
    "kill-daemon": faults.kill_daemon,
    "kill-worker": faults.kill_worker,
    "kill-each": ends.kill_each,
    "power-failure": ends.power_failure,
}
_STOPS: Mapping[str, Fault] = {"stop-daemon": faults.stop_daemon, "stop-worker": faults.stop_worker}
_REDIS: Mapping[str, Fault] = {
    "restart": faults.restart_redis,
    "stop": faults.stop_redis,
    "client-pause": faults.pause_redis,
    "debug-sleep": faults.sleep_redis,
    "out-of-memory": faults.full_redis,
    "replica": faults.replica_redis,
    "script-flush": faults.forget_scripts,
    "client-kill": faults.kick_clients,
}
_MOODS: Mapping[str, Fault] = {
    "busy": moods.busy_redis,
    "loading": moods.loading_redis,
    "primary-down": moods.primary_is_down,
    "no-replicas": moods.no_replicas,
    "pause-writes": moods.pause_writes,
}
_ENDS: Mapping[str, Fault] = {
    "leave-worker": ends.leave_worker,
    "killed-still": ends.killed_still,
    "killed-leaving": ends.killed_leaving,
    "leaves-silent-redis": ends.leaves_silent_redis,
}
_WIRE: Mapping[str, Fault] = {
    "silence": faults.hang_wire,
    "drop": faults.drop_wire,
    "late": faults.late_wire,
    "torn": faults.torn_wire,
    "all-of-it": faults.bad_wire,
}
_UPSTREAM: Mapping[str, Fault] = {
    **{name: faults.ill(name) for name in faults._ILLS},
    "529": faults.storm,
    "rubbish": faults.rubbish,
}
_OWN: Mapping[str, Fault] = {
    "kill-valkey": faults.kill_own_valkey,
    "stop-valkey": faults.stop_own_valkey,
    "kill-daemon": faults.kill_daemon,
    "cut-cache": faults.cut_cache,
}


def _together(*some: Mapping[str, Fault]) -> Mapping[str, Fault]:
    together = {name: fault for each in some for name, fault in each.items()}
    assert len(together) == sum(map(len, some)), "two faults of one name: one of them would never be done"
    return together


ROWS: Mapping[str, Row] = {
    "kills": Row(_KILLS, rounds=15, others=_OTHERS),
    "ends": Row(_ENDS, rounds=5, settings={"DRAIN__TIME": "2s"}),
    "stops": Row(_STOPS, rounds=3),
    "redis": Row(_REDIS, rounds=3, short=4),
    "moods": Row(_MOODS, rounds=3),
    "wire": Row(_WIRE, rounds=4, short=2),
    "upstream": Row(_UPSTREAM, rounds=2, short=4),
    "own": Row(_OWN, rounds=8, is_own=True),
    "disk": Row({"full": faults.fill_disk}, rounds=4, is_own=True, disk_mb=64),
    "sentinel": Row({"fail-over": faults.fail_over, "kill-primary": faults.kill_primary}, rounds=4, is_group=True),
    "drain": Row({"drain": faults.drain}, rounds=5, settings={"DRAIN__TIME": "2s"}),
    "clock": Row({"step": faults.step_clock}, rounds=5),
    "everything": Row(
        _together(_KILLS, _STOPS, _ENDS, _REDIS, _MOODS, _WIRE, _UPSTREAM, {"drain": faults.drain, "clock": faults.step_clock}),
        rounds=5, callers=24, others=_OTHERS, short_others=_TS, settings={"DRAIN__TIME": "2s"},
    ),
}  # fmt: skip
SHORT = ("everything", "own")
