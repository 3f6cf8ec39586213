"""Redis's password: from a file of its own, or a credential, into the URL, and never shown."""

import pytest
from redis.connection import parse_url

from config_parts import HOME, problems
from headrace import config
from headrace.config import toml

PASSWORD = "p@ss:w/rd?hunter2%"


@pytest.fixture
def file(tmp_path):
    """A file with the password."""
    path = tmp_path / "redis_password"
    path.write_text(f"{PASSWORD}\n")
    return path


@pytest.mark.parametrize(
    "url", ["redis://h:1/2", "redis://ada@h", "rediss://h?db=1", "unix:///run/r.sock", "unix://ada@/run/r.sock?db=1"]
)
def test_into_the_url(file, url):
    """The URL says what it said, and the password; it is shown without."""
    for environ in ({"HEADRACE_REDIS__PASSWORD_FILE": str(file)}, {"CREDENTIALS_DIRECTORY": str(file.parent)}):
        settings = config.load(None, HOME | {"HEADRACE_REDIS__URL": url} | environ)
        assert parse_url(settings.redis.url) == parse_url(url) | {"password": PASSWORD}
        assert "hunter2" not in toml.dumps(settings.redacted()) + repr(settings)


def test_not_needed(file):
    """Without a Redis, and where the URL has a password, a credential is of no use."""
    credential = HOME | {"CREDENTIALS_DIRECTORY": str(file.parent)}
    assert config.load(None, credential).redis.url == ""
    assert config.load(None, credential | {"HEADRACE_REDIS__URL": "redis://:x@h"}).redis.url == "redis://:x@h"


def test_mistakes(file, tmp_path):
    """A file that is not there, is empty, or is one password too many is a mistake that is told without any password."""
    environ = {"HEADRACE_REDIS__URL": "redis://h", "HEADRACE_REDIS__PASSWORD_FILE": str(tmp_path / "none")}
    assert "redis.password_file" in problems(None, environ)
    file.write_text("\n")
    assert "must be one line" in problems(None, environ | {"HEADRACE_REDIS__PASSWORD_FILE": str(file)})
    file.write_text("hunter2")
    said = problems(None, {"HEADRACE_REDIS__URL": "redis://:hunter3@h", "HEADRACE_REDIS__PASSWORD_FILE": str(file)})
    assert "redis.url has a password, too" in said
    assert "hunter" not in said
