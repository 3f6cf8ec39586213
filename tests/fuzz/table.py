"""All targets."""

from __future__ import annotations

from tests.fuzz import asked, bodies, kept, records, upstreams, words

TARGETS = (*words.TARGETS, *bodies.TARGETS, *upstreams.TARGETS, *records.TARGETS, *asked.TARGETS, *kept.TARGETS)
BY_NAME = {target.name: target for target in TARGETS}
