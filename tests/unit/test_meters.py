"""Meters: labels name models that there are, whatever callers make up; streams have times of their own."""

from __future__ import annotations

from dataclasses import replace

import pytest
from prometheus_client.samples import Sample

from headrace import observe
from headrace.instruments import Histogram, Sizes
from headrace.meters import Meters
from headrace.model import Usage
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


def test_streams() -> None:
    """A stream has a time from each event to the next, and one for each token; one that broke off has none for a token."""
    meters = Meters(str, 5)
    for model, outcome in (("streamed", "answered"), ("broken off", "broken")):
        made = Try(1, 200 if outcome == "answered" else 502, outcome, 0.0, 5.0, 0.0, "", "", HERE, "")
        gaps = Sizes(observe.GEN_AI_CHUNK.buckets)
        for gap in (0.005, 0.03, 0.03, 100.0):
            gaps.add(gap)
        asked = replace(call(1, within=5.0), model=model, endpoint="messages")
        meters.tried(Tried(asked, made, Usage(output_tokens=41, known=True), first_s=1.0, gaps=gaps))
    seen = {sample.labels["le"]: sample.value for sample in shown(observe.GEN_AI_CHUNK, "streamed") if "le" in sample.labels}
    assert (seen["0.01"], seen["0.02"], seen["0.04"], seen["81.92"], seen["+Inf"]) == (1, 1, 3, 3, 4)
    (per_token,) = [sample.value for sample in shown(observe.GEN_AI_PER_TOKEN, "streamed") if sample.name.endswith("_sum")]
    assert per_token == pytest.approx(0.1)
    assert not shown(observe.GEN_AI_PER_TOKEN, "other")


def shown(metric: Histogram, model: str) -> list[Sample]:
    """Return what a metric shows of a model."""
    return [sample for sample in metric.collect().samples if sample.labels["gen_ai_request_model"] == model]
