"""Instruments: a bucket has exemplars of recorded traces alone."""

from __future__ import annotations

import pytest

from headrace import trace
from headrace.instruments import Histogram
from headrace.trace import Trace


@pytest.mark.parametrize("flags", [0, 1])
def test_exemplars(flags: int) -> None:
    """A bucket has an exemplar if the trace of its last call is recorded, and none else."""
    seen = Histogram("seen_seconds", "")
    seen.observe(0.3, trace=Trace("1" * 32, trace.new_span_id(), flags))
    assert len([sample for sample in seen.collect().samples if sample.exemplar is not None]) == flags
