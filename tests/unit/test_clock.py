"""The machine's clock: spans and moments go on, whoever sets it, and moments by a better clock once one was heard."""

from __future__ import annotations

import time

import pytest

from headrace.clock import SystemClock


def test_set_by_somebody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody sets the host's clock: our time goes on as it did."""
    clock = SystemClock()
    before = clock.now()
    monkeypatch.setattr(time, "time", lambda: 3e9)
    assert 0 <= clock.now() - before < 5


@pytest.mark.parametrize("apart", [60.0, -60.0, 0.2])
def test_goes_by_another(apart: float) -> None:
    """It goes by the clock that it heard, as that was in the middle of the question."""
    clock = SystemClock()
    asked = clock.span()
    clock.go_by(clock.now() + apart, asked, asked + 0.02)
    assert clock.now() == pytest.approx(time.time() + apart, abs=0.1)


@pytest.mark.parametrize(("apart", "took"), [(0.02, 0.0), (0.9, 2.0), (-0.9, 2.0)])
def test_near_enough(apart: float, took: float) -> None:
    """What it hears moves it no more than the hearing is sure."""
    clock = SystemClock()
    asked = clock.span()
    clock.go_by(clock.now() + took / 2 + apart, asked, asked + took)
    assert clock.now() == pytest.approx(time.time(), abs=0.1)
