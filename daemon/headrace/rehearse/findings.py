"""What came of a rehearsal, in the end: figures with names, for `--json`, the report and the picture. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from headrace.budget.want import Form, Kind
from headrace.rehearse.plan import Plan
from headrace.rehearse.tally import Flows, Key, Series, Tally
from headrace.rehearse.traffic import Traffic


class Waits(msgspec.Struct, frozen=True):
    """The calls of one caller in one lane: how many were granted and refused (by reason), and how long those granted waited."""

    caller: str
    lane: str
    calls: int
    granted: int
    refused: dict[str, int]
    wait_p50_s: float
    wait_p99_s: float
    wait_most_s: float
    input_tokens: int
    output_tokens: int


class Use(msgspec.Struct, frozen=True):
    """
    How much of one bucket was used.

    Args:
        capacity: of the bucket, in what is counted; spend in nano-USD.
        per_minute: what flows in; 0 into permits and windows.
        used: the share of what flowed in that was used while calls came; of permits, the mean share that was lent; of a window,
            the share that was used by the end.
        over_time: the same for each slice of time; of a window, up to that slice.
    """

    bucket: str
    limit: str
    kind: Kind
    form: Form
    capacity: int
    per_minute: int
    used: float
    over_time: list[float]


class Findings(msgspec.Struct, frozen=True):
    """
    All of it.

    Args:
        guessed: calls whose use was not known, and drawn by chance.
        begins: the first call, in Unix seconds; `seconds` until the last came, `slice_s` is one slice of time.
        waiting: the most calls that waited in each slice, by lane.
        shadows: what limits in the shadow would have said, by limit: how many calls they "granted" and "held".
        exchanges: how often daemons talked of what they borrowed; `borrowed` calls were granted from that.
    """

    calls: int
    guessed: int
    daemons: int
    begins: float
    seconds: float
    slice_s: float
    waits: list[Waits]
    limits: list[Use]
    waiting: dict[str, list[int]]
    shadows: dict[str, dict[str, int]]
    borrowed: int = 0
    exchanges: int = 0

    @property
    def granted(self) -> int:
        return sum(flow.granted for flow in self.waits)

    @property
    def refused(self) -> int:
        return self.calls - self.granted


def findings(plan: Plan, traffic: Traffic, tally: Tally, *, borrowed: int = 0, exchanges: int = 0) -> Findings:
    """Return what came of a rehearsal."""
    slices = 1 + (tally.slice(traffic.at_us[-1]) if len(traffic) else 0)
    shadows: dict[str, dict[str, int]] = {}
    for (limit, decision), count in sorted(tally.shadows.items()):
        shadows.setdefault(limit, {})[decision] = count
    return Findings(
        calls=len(traffic),
        guessed=traffic.guessed,
        daemons=plan.daemons,
        begins=tally.begins_us / 1e6,
        seconds=(traffic.at_us[-1] - traffic.at_us[0]) / 1e6 if len(traffic) else 0.0,
        slice_s=tally.slice_us / 1e6,
        waits=[_waits(key, flow) for key, flow in sorted(tally.flows.items())],
        limits=[_use(series, slices, tally.slice_us) for _, series in sorted(tally.series.items())],
        waiting={lane: most for lane, most in sorted(tally.waiting.items()) if max(most)},
        shadows=shadows,
        borrowed=borrowed,
        exchanges=exchanges,
    )


def _waits(key: Key, flow: Flows) -> Waits:
    waits, refused = sorted(flow.waits_us), sum(flow.refused.values())
    p50, p99, most = (round(quantile(waits, part) / 1e6, 6) for part in (0.5, 0.99, 1.0))
    return Waits(
        *key, len(waits) + refused, len(waits), dict(sorted(flow.refused.items())), p50, p99, most, flow.input_tokens,
        flow.output_tokens,
    )  # fmt: skip


def quantile(values: Sequence[float], part: float) -> float:
    """Return the value that so large a part of sorted values does not pass; 0 of none."""
    return values[min(len(values) - 1, int(part * len(values)))] if values else 0.0


def _use(series: Series, slices: int, slice_us: int) -> Use:
    want, taken = series.want, series.slices
    while len(taken) < slices:
        taken.append(0)
    if want.form is Form.WINDOW:
        over_time = [sum(taken[: index + 1]) / want.capacity for index in range(len(taken))]
        used = over_time[-1]
    else:
        full = want.rate_per_minute * slice_us / 60e6 if want.form is Form.RATE else want.capacity * slice_us
        over_time = [amount / full for amount in taken]
        used = sum(over_time[:slices]) / slices
    over_time = [round(share, 5) for share in over_time]
    return Use(want.bucket_id, want.limit, want.kind, want.form, want.capacity, want.rate_per_minute, round(used, 5), over_time)
