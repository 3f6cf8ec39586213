"""The short form of fuzzing: samples, what broke something once, and some thousands of changed inputs for each target."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog
from tests.fuzz.found import FOUND
from tests.fuzz.mutate import LONGEST, Mutator
from tests.fuzz.table import BY_NAME, TARGETS
from tests.fuzz.target import CORPUS, SLOW_S, Target, mutated, run

from headrace import records

_INPUTS = 5_000
_SEED = 20261127

targets = pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    # What cannot be read is told, line by line.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    yield
    structlog.reset_defaults()
    records.forget()


@targets
def test_samples(target: Target) -> None:
    """Nothing in the corpus breaks its decoder."""
    found = run(target, target.samples())
    assert not found.broken
    assert found.read > 0


@pytest.mark.parametrize(("name", "data"), [(name, data) for name, all_ in FOUND.items() for data in all_])
def test_what_was_found(name: str, data: bytes) -> None:
    """What broke a decoder once does so no more, and takes a moment."""
    target = BY_NAME[name]
    broken = target.broken_by(data)
    assert broken is None, repr(broken)
    assert len(data) > LONGEST or target.seconds(data) < SLOW_S


@targets
def test_changed(target: Target) -> None:
    """Whatever bytes come, a decoder returns or says what its contract names, within 50 ms of the processor's time."""
    found = run(target, mutated(target, _INPUTS // target.weight, _SEED))
    assert not found.broken


def test_the_same_for_a_seed() -> None:
    """A seed makes the same inputs everywhere; another one makes others."""
    first, again, other = (Mutator([b"abc", b"12"], seed=seed) for seed in (1, 1, 2))
    assert [first.input() for _ in range(100)] == [again.input() for _ in range(100)]
    assert [first.input() for _ in range(100)] != [other.input() for _ in range(100)]


def test_every_sample_is_somebodys() -> None:
    """No file of the corpus lies there unused."""
    assert {target.corpus or target.name for target in TARGETS} == {path.stem for path in CORPUS.iterdir()}
