"""
Other people's software as clients of the daemon, unmodified: a base URL and a key is all that they are told.

They are no dependencies of this project, and live in an environment of their own (`make others`; requirements.txt has the
versions). So this folder imports nothing of ours either: the daemon and the simulator are processes of the other environment.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator

import pytest

# In the project's own environment (`make test`) there is nothing to collect. In theirs, a program that is missing is an error.
if importlib.util.find_spec("headrace"):
    collect_ignore_glob = ["test_*.py"]
else:
    from staging import Stage, staged

# Read when LiteLLM is imported, which else fetches its table of prices from the internet.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"


@pytest.fixture(scope="session")
def stage() -> Iterator[Stage]:
    """A simulator that answers at once, and an installed daemon in front of it."""
    with staged() as stage:
        yield stage
