"""Which models share a set of limits at the simulator, and that they do."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from headrace.simulator.classes import by_class, model_class
from headrace.simulator.limits import Limits
from headrace.simulator.options import Options
from headrace.simulator.organization import Organization
from headrace.simulator.refusals import Refused


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("claude-opus-4-1-20250805", "claude-opus-4"),
        ("claude-opus-4-5", "claude-opus-4"),
        ("claude-opus-4", "claude-opus-4"),
        ("claude-opus-45", "claude-opus-45"),
        ("claude-sonnet-4-20250514", "claude-sonnet-4"),
        ("claude-sonnet-5", "claude-sonnet-5"),
        ("claude-sonnet-5-20260301", "claude-sonnet-5"),
        ("claude-3-5-haiku-latest", "claude-3-5-haiku"),
        ("sim-1", "sim-1"),
    ],
)
def test_model_class(model: str, name: str) -> None:
    """The 4 models of a line share, and others share with their own snapshots only."""
    assert model_class(model) == name


def test_grouped() -> None:
    """Models come by class, in their order."""
    models = ["claude-opus-4-1", "sim-1", "claude-opus-4-5"]
    assert by_class(models) == {"claude-opus-4": ["claude-opus-4-1", "claude-opus-4-5"], "sim-1": ["sim-1"]}


def test_shared_bucket() -> None:
    """What one model of a class takes is missing to the other, and its calls in the air are counted together."""
    limits = Limits(Options(requests_per_minute=1))
    limits.enter("claude-opus-4-1", 1)
    assert limits.running("claude-opus-4-5") == 1
    assert limits.headers("claude-opus-4-5")["anthropic-ratelimit-requests-remaining"] == "0"
    with pytest.raises(Refused):
        limits.enter("claude-opus-4-5", 1)
    limits.enter("claude-sonnet-4-5", 1)


def test_told_by_class() -> None:
    """The Admin API tells one set of limits for a class, with the models that share it."""
    ids = count()
    organization = Organization(Options(requests_per_minute=7), lambda kind: f"{kind}{next(ids)}")
    groups: list[Any] = [limit["models"] for limit in organization._limits() if limit["models"]]
    assert ["claude-opus-4-1-20250805", "claude-opus-4-5"] in groups
    assert len({model_class(models[0]) for models in groups}) == len(groups)
