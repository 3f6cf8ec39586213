"""A rehearsal: what always holds of it, whatever the limits and the traffic; and its file, its figures and its pictures."""

from __future__ import annotations

import dataclasses
import json
import random
import subprocess
import sys

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace import terminal
from headrace.budget.costs import Costs
from headrace.budget.limits import Limit, Limits
from headrace.budget.quanta import Terms
from headrace.budget.want import Form
from headrace.errors import StartupError
from headrace.model import Caller
from headrace.rank import NOBODY
from headrace.rehearse import command, picture, report, traffic
from headrace.rehearse.findings import Findings, findings
from headrace.rehearse.plan import Plan
from headrace.rehearse.traffic import Row, traffic_of
from headrace.rehearse.world import World
from headrace.usage.traffic import Line
from windows import worst_window

MODEL = "claude-sonnet-5"


def plan(*limits: Limit, **said) -> Plan:
    costs = Costs(lambda model, usage: 1000 * usage.output_tokens)
    return Plan(Limits(limits, costs=costs), costs, **said)


def row(at: float, **said) -> Row:
    return Row(**{"at": at, "input_tokens": 10, "output_tokens": 20, "seconds": 0.5, "model": MODEL, "max_tokens": 50} | said)


def rehearsed(plan: Plan, *rows: Row) -> Findings:
    calls = traffic_of(rows)
    return findings(plan, calls, World(plan, calls).run())


@st.composite
def rows(draw) -> list[Row]:
    chance = random.Random(draw(st.integers(0, 2**32)))
    return [
        row(
            1_000 + chance.random() * 20,
            caller=chance.choice("abc"),
            lane=chance.choice(["interactive", "standard", "batch"]),
            input_tokens=(tokens := chance.randrange(1, 400)),
            body_bytes=4 * tokens,
            output_tokens=chance.randrange(1, 200),
            max_tokens=200,
            seconds=chance.random() * 2,
            deadline_s=chance.choice([0.5, 3.0, 30.0]),
        )
        for _ in range(draw(st.integers(1, 400)))
    ]


PLANS = st.builds(
    lambda requests, tokens, permits, daemons, slots, terms: plan(
        Limit("org", requests_per_minute=requests, burst_s=4, estimate="ceiling"),
        Limit("output", output_tokens_per_minute=tokens, per=("caller",), burst_s=6, estimate="ceiling"),
        *[Limit("air", concurrency=permits)] * bool(permits),
        daemons=daemons,
        slots=slots,
        terms=terms,
    ),
    st.integers(30, 2_000),
    st.integers(2_500, 100_000),
    st.integers(0, 5),
    st.sampled_from([1, 2, 40]),
    st.sampled_from([1, 512]),
    st.sampled_from([None, Terms(0.3, 1.0), Terms()]),
)


@settings(max_examples=60, deadline=None)
@given(PLANS, rows())
def test_what_always_holds(plan, rows) -> None:
    """No window passes its bound; each call is granted in time, or refused; nothing is held in the end; again, the same."""
    calls, moves = traffic_of(rows), {}
    world = World(plan, calls, heed=lambda line, at_us, tokens: moves.setdefault(line, []).append((at_us, tokens)))
    found = findings(plan, calls, world.run())
    for line, moved in moves.items():
        if line.want.form is Form.RATE:
            worst = worst_window(moved, rate_per_minute=line.want.rate_per_minute, capacity=line.want.capacity)
            assert worst.is_kept, worst
        else:
            assert sum(tokens for _, tokens in moved) == line.in_use == 0
            assert all(sum(tokens for _, tokens in moved[:end]) <= line.want.capacity for end in range(len(moved)))
    assert sum(flow.calls for flow in found.waits) == len(rows)
    longest = max(row.deadline_s for row in rows)
    assert all(flow.wait_most_s <= longest for flow in found.waits)
    assert all(daemon.crowd.stats().calls == 0 and daemon.take_free(NOBODY) for daemon in world.daemons)
    assert findings(plan, calls, World(plan, calls).run()) == found


@settings(max_examples=30, deadline=None)
@given(PLANS, rows())
def test_nothing_starves(plan, rows) -> None:
    """Who has all the time there is, is granted in the end, in whichever lane."""
    found = rehearsed(plan, *(msgspec.structs.replace(row, deadline_s=100_000.0) for row in rows))
    assert found.refused == 0


# What it predicts.


def test_a_wait_is_told_to_the_microsecond():
    """Twelve calls at once, two of them in the bucket, one more each second."""
    found = rehearsed(plan(Limit("org", requests_per_minute=60, burst_s=2)), *(row(5.0) for _ in range(12)))
    assert (found.waits[0].wait_most_s, found.waits[0].wait_p50_s) == (10.0, 5.0)


def test_refused_early_and_for_good():
    """Who cannot be granted in time is refused when it comes, and who wants more than there ever is, too."""
    limit = Limit("org", output_tokens_per_minute=60, burst_s=60, estimate="ceiling")
    late = [row(5.0, max_tokens=20, output_tokens=20, deadline_s=30.0) for _ in range(6)]
    assert rehearsed(plan(limit), *late).waits[0].refused == {"late": 2}
    floods = [row(5.0, max_tokens=20, deadline_s=500.0) for _ in range(9)]
    assert rehearsed(plan(limit, max_waiting=2), *floods).waits[0].refused == {"full": 4}
    slots = rehearsed(plan(slots=1), *(row(5.0, deadline_s=1.2) for _ in range(9)))
    assert slots.waits[0].refused == {"late": 6}


def test_weights_and_lanes():
    """A caller of three times the weight has three times the tokens; a flood in the batch lane holds up nobody in another."""
    callers = {"ann": Caller("ann", weight=3), "bob": Caller("bob")}
    flood = [row(index * 0.05, caller=name, deadline_s=3.0) for index in range(1_200) for name in ("ann", "bob")]
    limit = Limit("org", requests_per_minute=600, burst_s=1)
    ann, bob = rehearsed(plan(limit, callers=callers), *flood).waits
    assert ann.granted / bob.granted == pytest.approx(3, rel=0.05)
    jobs = [row(index * 0.05, lane="batch", deadline_s=60.0) for index in range(1_200)]
    asked = [row(10 + index * 0.5, lane="interactive") for index in range(80)]
    batch, interactive = rehearsed(plan(limit), *jobs, *asked).waits
    assert interactive.wait_p99_s < 0.3 < 20 < batch.wait_p50_s


def test_a_window_ends():
    """Spend by the day: what does not fit waits for midnight, if it may; a limit in the shadow holds up nobody."""
    evening = 1_795_822_200.0  # 23:30 UTC
    limit = Limit("money", spend_per_day=0.0001, estimate="ceiling")  # 100,000 nano-USD: two of 50 tokens
    calls = [row(evening, output_tokens=50, deadline_s=deadline_s) for deadline_s in (4_000.0, 4_000.0, 4_000.0, 60.0)]
    [flow] = rehearsed(plan(limit), *calls).waits
    assert (flow.granted, flow.refused, flow.wait_most_s) == (3, {"late": 1}, pytest.approx(1800.0, abs=1))
    shadow = rehearsed(plan(dataclasses.replace(limit, shadow=True)), *calls)
    assert (shadow.refused, shadow.shadows) == (0, {"money": {"granted": 2, "held": 2}})


def test_borrowing_grants_the_same():
    """With and without quanta a flood has the whole bucket; while nobody waits, nearly all is granted from what is held."""
    limit = Limit("org", requests_per_minute=60_000, burst_s=1)
    calm = [row(index * 0.0025, seconds=0.0) for index in range(4_000)]
    found = command.run(plan(limit, daemons=4, terms=Terms()), traffic_of(calm))
    assert found.refused == 0
    assert found.borrowed > 0.9 * found.calls > 4 * found.exchanges
    flood = [row(index * 0.0005, seconds=0.0, deadline_s=0.2) for index in range(12_000)]
    shares = [
        command.run(plan(limit, daemons=40, terms=terms), traffic_of(flood)).limits[0].used for terms in (None, Terms(0.3, 1.0))
    ]
    assert min(shares) > 0.97, shares


def test_what_was_refused_is_drawn():
    """A line without tokens is taken to be like an answered one of the same caller and model."""
    calls = traffic_of([row(1.0, output_tokens=77), row(2.0, input_tokens=0, output_tokens=0, seconds=0.0)])
    assert (calls.guessed, calls.output_tokens, calls.took_us) == (1, [77, 77], [500_000, 500_000])


# The file.


def test_the_format_is_the_daemons():
    """What a daemon exports has the keys that are read."""
    assert set(Line.__struct_fields__) == set(Row.__struct_fields__)


def test_both_forms(tmp_path):
    """JSON lines and CSV say the same; an empty cell is one that is not there."""
    lines = tmp_path / "calls.jsonl"
    lines.write_text('{"at": 2, "input_tokens": 1, "output_tokens": 2, "seconds": 0.5, "labels": "b=2,a=1"}\n\n')
    table = tmp_path / "calls.csv"
    table.write_text('at,input_tokens,output_tokens,seconds,caller,labels\n2.0,1,2,0.5,,"b=2,a=1"\n')
    assert traffic.read(lines, ["standard"]) == traffic.read(table, ["standard"])
    assert traffic.read(lines, ["standard"]).profiles[0].labels == (("a", "1"), ("b", "2"))


GOOD = '{"at": 1, "input_tokens": 1, "output_tokens": 1, "seconds": 1'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty; a line looks so"),
        (f'{GOOD}}}\n{{"at": "x"}}\n', 'line 2: at: Expected `float`, got `str`; a line looks so: {"at": 12.5'),
        ('{"at": 1}\n', "line 1: Object missing required field `input_tokens`"),
        ('{"at": 1, \n', "line 1: "),
        (f'{GOOD}, "lane": "slow"}}', "line 1: lane 'slow': there is none of that name; use one of interactive, batch"),
        (f'{GOOD}, "endpoint": "x"}}', "line 1: endpoint 'x': use one of messages"),
        (f"{GOOD.replace('1, ', '-1, ', 1)}}}", "line 1: at: Expected `float` >= 0.0"),
        ("at,seconds\n1,2\n", "line 1: there is no column input_tokens; the first line names columns, out of at,"),
        ("at,input_tokens,output_tokens,seconds\n1,2\n", "line 2: there are 2 cells for 4 columns"),
        ("at,input_tokens,output_tokens,seconds\n1,2,3,nan\n", "line 2: seconds: Expected `float` >= 0.0; columns are at,"),
        ("at,input_tokens,output_tokens,seconds\n1,2,many,4\n", "line 2: output_tokens: Expected `int`, got `str`"),
        (b"\xff\xfe", "is not UTF-8 (byte 0)"),
    ],
)
def test_a_wrong_file(tmp_path, text, said):
    """It is told which file and line, what is wrong, and what would be right."""
    path = tmp_path / "calls"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(StartupError) as caught:
        traffic.read(path, ["interactive", "batch"])
    assert str(path) in str(caught.value)
    assert said in str(caught.value)


# What is shown.


def found() -> Findings:
    limits = Limit("org", requests_per_minute=600, burst_s=1), Limit("air", concurrency=9), Limit("day", spend_per_day=1.0)
    flood = [row(index * 0.02, lane=("batch", "interactive")[index % 2], deadline_s=3.0) for index in range(900)]
    return rehearsed(plan(*limits, daemons=3), *flood)


def test_shown(capsys):
    """The report names who waits, who is refused, and each limit with its bound, its use and a line of blocks."""
    report.show(found(), terminal.console())
    said = capsys.readouterr().out
    for part in (
        "900 calls in 18 s at 3 daemons",
        "interactive",
        "too late",
        "org:requests",
        "600/min",
        "9 at once",
        "$1.00",
        "█",
    ):
        assert part in said


def test_blocks():
    """The highest block is for what is full, and what is not nothing is seen."""
    assert report.blocks([0, 0.01, 0.5, 1, 7], 1.0) == " ▁▄██"
    assert len(report.blocks([1.0] * 500, 1.0)) == 60
    assert report.blocks([], 1.0) == ""


def test_drawn(tmp_path):
    """A PNG; and an error where it cannot be written."""
    pytest.importorskip("matplotlib")
    path = tmp_path / "drawn.png"
    picture.draw(found(), path)
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with pytest.raises(StartupError, match="cannot be written"):
        picture.draw(found(), tmp_path / "none" / "drawn.png")


def test_without_matplotlib(monkeypatch):
    """It is said how to install it."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(StartupError, match=r"pip install 'headrace\[plot\]'"):
        picture.check()


def test_the_command(tmp_path):
    """The same seed gives the same figures, and JSON has them all; nothing but them is on standard output, no bar in a pipe."""
    config = tmp_path / "config.toml"
    config.write_text('[[limit]]\nname = "org"\nrequests_per_minute = 60\nburst = "1s"\n')
    calls = tmp_path / "calls.jsonl"
    calls.write_bytes(b"".join(msgspec.json.encode(row(index * 0.5)) + b"\n" for index in range(50)))
    ask = [sys.executable, "-m", "headrace", "rehearse", str(config), "--traffic", str(calls), "--daemons", "7", "--json"]
    one, other = (subprocess.run(ask, capture_output=True, text=True, check=True, timeout=60) for _ in range(2))
    assert (one.stdout, one.stderr) == (other.stdout, "")
    told = json.loads(one.stdout)
    assert (told["daemons"], told["limits"][0]["bucket"], told["waits"][0]["calls"]) == (7, "org:requests", 50)
