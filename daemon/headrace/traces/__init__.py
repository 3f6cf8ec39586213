"""
Traces: what befell calls, as spans for OpenTelemetry.

Nothing carries a span through the stages. A call's place in its trace is made when it enters (trace.py), so that tickets and
upstream can be told of it; the spans themselves are made when all is over, of what outcomes and tries say anyway.

    spans    outcomes and tries into spans, and nothing but values
    otlp     the way out: imports OpenTelemetry's SDK, and nobody imports it unless the environment names a receiver
"""

from headrace.traces.spans import Kind, Span, Traces

__all__ = ["Kind", "Span", "Traces"]
