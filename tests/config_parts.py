"""What tests of the configuration share: somebody's home, and what is said of mistakes."""

import pytest

from headrace import config
from headrace.errors import ConfigError

HOME = {"HOME": "/home/ada"}


def problems(path, environ=None):
    """Load what is wrong, and return what is said of it."""
    with pytest.raises(ConfigError) as caught:
        config.load(path, HOME | (environ or {}))
    return str(caught.value)
