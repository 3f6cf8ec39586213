"""The promise of the limits over processes, one of which is killed."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from pressing import BURST_S, REQUESTS, TOKENS, grants
from windows import used_share, worst_window

PRESSING = Path(__file__).parent.parent / "pressing.py"
CAPACITY = int(REQUESTS * BURST_S / 60)


def start(url: str, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, PRESSING, url, str(seconds), "40"], stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_killed(valkey_url):
    """Three processes press on one limit, one is killed: no window is over the bound, and the others use what is left."""
    doomed, *others = [start(valkey_url, 9.0) for _ in range(3)]
    time.sleep(3)
    doomed.kill()
    doomed.communicate()
    turns = [int(other.communicate(timeout=30)[0]) for other in others]
    requests, tokens = grants(valkey_url, "requests"), grants(valkey_url, "input_tokens")
    worst = worst_window(requests, rate_per_minute=REQUESTS, capacity=CAPACITY)
    seconds = (requests[-1][0] - requests[0][0]) / 1e6
    used = used_share(requests, rate_per_minute=REQUESTS, capacity=CAPACITY, seconds=seconds)
    print(f"turns of those that live {turns}, worst {worst}, used {used:.4f} of {seconds:.1f} s")
    assert all(turns)
    assert worst.is_kept
    assert worst_window(tokens, rate_per_minute=TOKENS, capacity=int(TOKENS * BURST_S / 60)).is_kept
    # If the dead one was the very first in line, it holds the others up until its place lapses, five seconds; what flows in
    # meanwhile stays in the bucket, as far as that holds: two seconds' worth.
    assert used >= 0.6
