"""Meters: labels name models that there are, whatever callers make up."""

from __future__ import annotations

from dataclasses import replace

from headrace import observe
from headrace.meters import Meters
from headrace.outcome import Tried
from headrace.trail import HERE, Try
from pressing import call


def test_models() -> None:
    """A model has its name in metrics once upstream has answered it; what a caller made up is "other"."""
    meters = Meters(str, 5)
    for model, outcome in (("made up", "final"), ("answered", "answered")):
        made = Try(1, 200 if outcome == "answered" else 404, outcome, 0.0, 0.1, 0.0, "", "", HERE, "")
        meters.tried(Tried(replace(call(1, within=5.0), model=model, endpoint="messages"), made))
    shown = {sample.labels["gen_ai_request_model"] for sample in observe.GEN_AI_TIME.collect().samples}
    assert "made up" not in shown
    assert {"answered", "other"} <= shown
