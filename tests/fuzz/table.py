"""All targets."""

from __future__ import annotations

from tests.fuzz import bodies, records, upstreams, words

TARGETS = (*words.TARGETS, *bodies.TARGETS, *upstreams.TARGETS, *records.TARGETS)
BY_NAME = {target.name: target for target in TARGETS}
