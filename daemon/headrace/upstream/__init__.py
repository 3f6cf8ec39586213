"""
What stands above us: `client` asks the API, `requests` is what it is told, `reading` takes in what it says, `failures` knows
what its errors mean, `transport` is the network, `masking` keeps our key out of what comes back.
"""

from __future__ import annotations

from headrace.upstream.client import Upstream
from headrace.upstream.failures import classify, classify_event
from headrace.upstream.reading import Stream

__all__ = ["Stream", "Upstream", "classify", "classify_event"]
