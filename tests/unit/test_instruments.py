"""What callers say, and what is made of it: exemplars of recorded traces alone, models that there are, names of headers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from prometheus_client.samples import Sample

from headrace import observe, trace
from headrace.errors import AttemptFailed
from headrace.instruments import Histogram, Sizes
from headrace.meters import Meters
from headrace.model import Usage
from headrace.outcome import Tried
from headrace.trace import Trace
from headrace.trail import HERE, Try
from headrace.upstream.carrying import Body
from headrace.upstream.requests import Requests
from pressing import call


@pytest.mark.parametrize("flags", [0, 1])
def test_exemplars(flags: int) -> None:
    """A bucket has an exemplar if the trace of its last call is recorded, and none else."""
    seen = Histogram("seen_seconds", "")
    seen.observe(0.3, trace=Trace("1" * 32, trace.new_span_id(), flags))
    assert len([sample for sample in seen.collect().samples if sample.exemplar is not None]) == flags


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


@pytest.mark.parametrize("name", ["x-a: b\r\nx-b", "x a", "", "x:a"])
def test_names(name: str) -> None:
    """A name of a header that HTTP cannot carry is refused, unsent."""
    requests = Requests(str, lambda: "key", str, version="2023-06-01", gap_s=1.0)
    with pytest.raises(AttemptFailed) as refused:
        requests.carried(call(1, within=5.0), ((name, "v"),), Body(b""))
    assert not refused.value.sent
